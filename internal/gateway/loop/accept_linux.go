package loop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// acceptBatch is how many connections are accepted before they are handed over.
const acceptBatch = 64

// freshLimit bounds the accepted sockets that wait for one loop to open them.
const freshLimit = 1024

// accepted is a socket on its way to a loop.
type accepted struct {
	fd     int
	remote netip.AddrPort
	src    *source
}

// loops are the epoll loops of a group.
type loops struct {
	group *Group
	all   []*eloop
	turn  atomic.Uint32
}

func (ls *loops) start(g *Group) error {
	ls.group = g
	for range g.cfg.Loops {
		l, err := newLoop(g)
		if err != nil {
			for _, l := range ls.all {
				l.release()
			}
			return err
		}
		ls.all = append(ls.all, l)
	}
	for _, l := range ls.all {
		g.work.Go(l.run)
	}
	return nil
}

func (ls *loops) ready() bool { return true }

func (ls *loops) stop() {
	for _, l := range ls.all {
		l.ask(loopStops)
	}
}

func (ls *loops) kill() {
	for _, l := range ls.all {
		l.ask(loopKills)
	}
}

// serve accepts connections until ctx ends. It works on a duplicate of the listener's descriptor and keeps the listener
// itself open meanwhile.
func (ls *loops) serve(ctx context.Context, ln *net.TCPListener, src *source) error {
	defer func() { _ = ln.Close() }()
	file, err := ln.File()
	if err != nil {
		return fmt.Errorf("the listener %s has no descriptor: %w", ln.Addr(), err)
	}
	defer func() { _ = file.Close() }()
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("the listener %s has no descriptor: %w", ln.Addr(), err)
	}
	// A deadline in the past wakes the waiting accept.
	defer context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })()

	if err := prepare(raw); err != nil {
		return fmt.Errorf("the listener %s cannot be set up: %w", ln.Addr(), err)
	}
	batch := make([]accepted, 0, acceptBatch)
	for failures := 0; ctx.Err() == nil; {
		var accErr error
		batch = batch[:0]
		waitErr := raw.Read(func(fd uintptr) bool {
			batch, accErr = acceptSome(int(fd), src, batch)
			return len(batch) > 0 || !errors.Is(accErr, unix.EAGAIN)
		})
		ls.group.stats.Accepted.Add(int64(len(batch)))
		if len(batch) > 0 {
			failures = 0
			ls.spread(ctx, ls.thin(batch))
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case waitErr != nil:
			return fmt.Errorf("the listener %s failed: %w", ln.Addr(), waitErr)
		case accErr == nil, errors.Is(accErr, unix.EAGAIN), errors.Is(accErr, unix.ECONNABORTED), errors.Is(accErr, unix.EINTR):
		case errors.Is(accErr, unix.EINVAL), errors.Is(accErr, unix.EBADF):
			return fmt.Errorf("the listener %s failed: %w", ln.Addr(), accErr)
		default: // EMFILE, ENFILE, ENOBUFS, ENOMEM, or a fault of the connection
			failures++
			if !ls.group.backOff(ctx, failures, accErr) {
				return nil
			}
		}
	}
	return nil
}

// prepare sets what accepted sockets inherit (TCP_NODELAY: answers are small and wanted at once), and has the kernel
// keep a connection until its first bytes are there, or a second is over: a client of WebSocket speaks first, so this
// saves a wake-up for each. A peer that lost its power, and of which the protocol asks for no sign of life (MQTT with keep
// alive 0), is found after ten minutes.
func prepare(raw syscall.RawConn) error {
	var err error
	ctlErr := raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1) // slower without, but right
		for _, o := range [][3]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 300}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 60}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 5},
		} {
			_ = unix.SetsockoptInt(int(fd), o[0], o[1], o[2]) // the protocols find most of the dead by themselves
		}
	})
	return errors.Join(ctlErr, err)
}

// acceptSome takes connections, as many as there are and batch has room for, without waiting. The error is why it
// stopped: EAGAIN when there are no more, nil when the room was used up.
func acceptSome(fd int, src *source, batch []accepted) ([]accepted, error) {
	for len(batch) < cap(batch) {
		nfd, sa, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return batch, os.NewSyscallError("accept4", err)
		}
		batch = append(batch, accepted{fd: nfd, remote: addressOf(sa), src: src})
	}
	return batch, nil
}

func addressOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.FormatUint(uint64(sa.ZoneId), 10))
		}
		return netip.AddrPortFrom(ip, uint16(sa.Port))
	default:
		return netip.AddrPort{}
	}
}

// thin closes the sockets of batch that are too many, and returns the others.
func (ls *loops) thin(batch []accepted) []accepted {
	n := len(batch)
	for n > 0 && ls.group.full(n-1) {
		n--
		_ = unix.Close(batch[n].fd)
		ls.group.stats.Refused.Add(1)
	}
	return batch[:n]
}

// spread hands the sockets of batch to the loops in turn; it waits while all have enough to open, so that the backlog
// grows in the kernel.
func (ls *loops) spread(ctx context.Context, batch []accepted) {
	for len(batch) > 0 {
		for i := range ls.all {
			left := len(ls.all) - i
			share := (len(batch) + left - 1) / left
			batch = batch[ls.all[int(ls.turn.Add(1))%len(ls.all)].hand(batch[:share]):]
			if len(batch) == 0 {
				return
			}
		}
		t := time.NewTimer(time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			for _, a := range batch {
				_ = unix.Close(a.fd)
			}
			return
		}
	}
}
