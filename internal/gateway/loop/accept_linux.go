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
	"time"

	"golang.org/x/sys/unix"
)

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

	for failures := 0; ctx.Err() == nil; {
		var a accepted
		var accErr error
		waitErr := raw.Read(func(fd uintptr) bool {
			a, accErr = accept(int(fd))
			return !errors.Is(accErr, unix.EAGAIN)
		})
		switch {
		case ctx.Err() != nil:
			if waitErr == nil && accErr == nil {
				_ = unix.Close(a.fd)
			}
			return nil
		case waitErr != nil:
			return fmt.Errorf("the listener %s failed: %w", ln.Addr(), waitErr)
		case accErr == nil:
			failures = 0
			ls.group.stats.Accepted.Add(1)
			a.src = src
			ls.spread(ctx, a)
		case errors.Is(accErr, unix.ECONNABORTED), errors.Is(accErr, unix.EINTR):
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

// accept takes one connection without waiting.
func accept(fd int) (accepted, error) {
	nfd, sa, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return accepted{}, os.NewSyscallError("accept4", err)
	}
	a := accepted{fd: nfd}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		a.remote = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.FormatUint(uint64(sa.ZoneId), 10))
		}
		a.remote = netip.AddrPortFrom(ip, uint16(sa.Port))
	}
	_ = unix.SetsockoptInt(nfd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // slower without, but right
	return a, nil
}

// spread hands a to the loops in turn; it waits while all have enough to open, so that the backlog grows in the kernel.
func (ls *loops) spread(ctx context.Context, a accepted) {
	for {
		for range ls.all {
			if ls.all[int(ls.turn.Add(1))%len(ls.all)].hand(a) {
				return
			}
		}
		t := time.NewTimer(time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			_ = unix.Close(a.fd)
			return
		}
	}
}
