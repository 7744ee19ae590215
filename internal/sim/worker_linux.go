package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"signalbox"
	"signalbox/internal/wire/packet"
)

// peerState is how far a connection has come.
type peerState uint8

const (
	away peerState = iota
	dialing
	upgrading
	loggingIn
	ready
)

// peer is one connection of a swarm.
type peer struct {
	fd    int32 // -1: none
	slot  int32 // in worker.peers
	index int32 // in SwarmConfig.Credentials
	uses  int32 // of fd, to tell a late event from a present one
	state peerState
	was   peerState // before it was lost
	owes  bool      // a pong at the end of a load
	hash  uint64    // of the device's name
	n     uint64    // counter of the latest message
	saved uint64
	mark  uint64 // counter of the message whose saved is timed, 0 none
	at    int64  // when it was sent, ns
	in    []byte // the beginning of a frame that is not complete
	out   []byte // what the socket did not take

	tokens []uint64 // MQTT: of the pings that are not answered, in order: they carry none
}

// maxPeerOut bounds what waits to be sent on one connection.
const maxPeerOut = 1 << 20

// readBytes is the most that is read at once.
const readBytes = 64 << 10

// loginToken marks the ping that follows the auth of version 1; barrierToken those that end a load.
const (
	loginToken   uint64 = 1<<63 | 1
	barrierToken uint64 = 1<<63 | 2
)

// worker serves some connections of a swarm with an epoll of its own. All but orders and bell belong to run.
type worker struct {
	s      *Swarm
	addr   unix.SockaddrInet4 // of the listener; the system call writes to it
	ep     int
	bell   int // an eventfd that ends waiting
	orders chan *order
	order  *order
	peers  []peer
	events [512]unix.EpollEvent
	buf    []byte
	out    []byte
	maker  maker
	mask   [4]byte
	err    error // ends the present job

	version   packet.Version // MQTT: what is spoken
	packet    packet.Packet  // the one being read
	publisher publisher
}

func newWorker(s *Swarm, number int) (*worker, error) {
	w := &worker{s: s, addr: s.addr, orders: make(chan *order, 1), buf: make([]byte, readBytes), mask: [4]byte{0x37, 0xfa, 0x21, 0x3d}}
	w.maker = newMaker(s.cfg.Seq, s.cfg.Stamp, w.mask)
	w.version = mqttVersion(s.cfg.MQTT5)
	w.publisher = newPublisher(w.version, s.cfg.QoS)
	var err error
	if w.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	if w.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = unix.EpollCtl(w.ep, unix.EPOLL_CTL_ADD, w.bell, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
	}
	if err != nil {
		_ = unix.Close(w.ep) // the first error tells
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	for i := number; i < len(s.cfg.Credentials); i += s.cfg.Workers {
		w.peers = append(w.peers, peer{fd: -1, slot: int32(len(w.peers)), index: int32(i), hash: hashName(s.cfg.Credentials[i].Name)})
	}
	return w, nil
}

// wake ends the worker's wait; any goroutine may call it.
func (w *worker) wake() {
	_, _ = unix.Write(w.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // when it is full, it wakes as well
}

func (w *worker) run() {
	defer w.shut()
	for !w.s.stopped.Load() {
		w.poll(w.step())
	}
}

func (w *worker) shut() {
	for i := range w.peers {
		w.hangUp(&w.peers[i])
	}
	if w.order != nil {
		w.order.done <- errors.New("the swarm was closed")
	}
	_ = unix.Close(w.bell) // nothing depends on these any more
	_ = unix.Close(w.ep)
}

// step does some of the present job and says how long to wait for events.
func (w *worker) step() int {
	if w.order == nil {
		select {
		case w.order = <-w.orders:
			w.err = nil
		default:
			return -1
		}
	}
	wait, done, err := 0, false, w.err
	if w.order.canceled.Load() {
		err = errors.New("canceled")
	}
	if err == nil {
		wait, done, err = w.order.job.step(w)
	}
	if done || err != nil {
		w.order.done <- err
		w.order = nil
		return 0
	}
	return wait
}

func (w *worker) poll(wait int) {
	n, err := unix.EpollWait(w.ep, w.events[:], wait)
	if err != nil { // only EINTR can be: the arguments are right
		return
	}
	for i := range n {
		e := &w.events[i]
		if e.Fd < 0 {
			var b [8]byte
			_, _ = unix.Read(w.bell, b[:])
			continue
		}
		p := &w.peers[e.Fd]
		if p.fd < 0 || p.uses != e.Pad {
			continue
		}
		w.event(p, e.Events)
	}
}

func (w *worker) event(p *peer, events uint32) {
	if p.state == dialing {
		code, err := unix.GetsockoptInt(int(p.fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err != nil {
			w.lose(p, err)
			return
		}
		if events&unix.EPOLLOUT == 0 {
			return
		}
		var first []byte
		first, p.state = w.first(p)
		w.write(p, first)
		return
	}
	if events&unix.EPOLLOUT != 0 && len(p.out) > 0 {
		waiting := p.out
		p.out = nil
		w.write(p, waiting)
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 && p.fd >= 0 {
		w.read(p)
	}
}

// open begins to connect p.
func (w *worker) open(p *peer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	p.fd, p.state, p.uses = int32(fd), dialing, p.uses+1
	// The port is chosen at connecting, so that each source address has all ports for each destination.
	err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil && w.addr.Addr[0] == 127 {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: Source(int(p.index) % w.s.cfg.Sources).As4()})
	}
	if err == nil {
		err = unix.EpollCtl(w.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: p.slot, Pad: p.uses,
		})
	}
	if err != nil {
		return fmt.Errorf("prepare a socket: %w", err)
	}
	if err := unix.Connect(fd, &w.addr); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		w.lose(p, err)
		return nil
	}
	// On the loopback a connection is most often there at once; otherwise an event tells when it is.
	first, next := w.first(p)
	if n, err := unix.Write(fd, first); err == nil && n == len(first) {
		p.state = next
	}
	return nil
}

// first is what p sends first, and the state in which it waits for the answer.
func (w *worker) first(p *peer) ([]byte, peerState) {
	if !w.s.isMQTT() {
		return w.s.upgrade, upgrading
	}
	w.out = w.connectPacket(w.out[:0], p)
	return w.out, loggingIn
}

// read takes what p's socket has. With edges one has to read until there is no more.
func (w *worker) read(p *peer) {
	for p.fd >= 0 {
		n, err := unix.Read(int(p.fd), w.buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			w.lose(p, err)
			return
		case n == 0:
			w.lose(p, errors.New("the hub closed the connection"))
			return
		}
		b := w.buf[:n]
		if len(p.in) > 0 {
			p.in = append(p.in, b...)
			b = p.in
		}
		b = w.consume(p, b)
		if len(b) == 0 {
			p.in = nil
		} else {
			p.in = append([]byte(nil), b...)
		}
		if n < len(w.buf) {
			return
		}
	}
}

// consume takes whole frames or packets off b and gives the rest.
func (w *worker) consume(p *peer, b []byte) []byte {
	if w.s.isMQTT() {
		return w.packets(p, b)
	}
	if p.state == upgrading {
		end := bytes.Index(b, []byte("\r\n\r\n"))
		if end < 0 {
			return b
		}
		if !bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) {
			line, _, _ := bytes.Cut(b, []byte("\r"))
			w.refused(line)
			w.lose(p, fmt.Errorf("the hub answered the upgrade with %q", line))
			return nil
		}
		b = b[end+4:]
		w.login(p)
	}
	for p.fd >= 0 && len(b) > 0 {
		f, n, err := parseFrame(b)
		if errors.Is(err, errNotReady) {
			return b
		}
		if err != nil {
			w.lose(p, err)
			return nil
		}
		b = b[n:]
		w.frame(p, f)
	}
	if p.fd < 0 {
		return nil
	}
	return b
}

func (w *worker) login(p *peer) {
	c := w.s.cfg.Credentials[p.index]
	switch w.s.cfg.Protocol {
	case signalbox.ProtocolNone:
		w.isReady(p)
		return
	case signalbox.ProtocolV1:
		w.out = appendFrame(w.out[:0], opText, authText(c, ""), w.mask)
		w.out = w.appendPing(w.out, p, loginToken)
	default:
		w.out = appendFrame(w.out[:0], opText, authText(c, `"v":2,"boot":"`+w.s.boot+`",`), w.mask)
	}
	p.state = loggingIn
	w.write(p, w.out)
}

// authText is the first message of a device; more is what version 2 adds.
func authText(c Credential, more string) []byte {
	b := append([]byte(`{"type":"auth",`), more...)
	b = append(append(b, `"name":`...), quote(c.Name)...)
	b = append(append(b, `,"password":`...), quote(c.Secret)...)
	return append(b, '}')
}

func (w *worker) isReady(p *peer) {
	p.state = ready
	w.s.ready.Add(1)
	w.tell(p)
}

// tell lets the present job know that p is ready or lost.
func (w *worker) tell(p *peer) {
	if w.order != nil {
		if err := w.order.job.changed(w, p); err != nil && w.err == nil {
			w.err = err
		}
	}
}

func (w *worker) appendPing(b []byte, p *peer, token uint64) []byte {
	if w.s.isMQTT() {
		p.tokens = append(p.tokens, token)
		return packet.AppendPing(b, packet.PINGREQ)
	}
	var payload [8]byte
	binary.BigEndian.PutUint64(payload[:], token)
	return appendFrame(b, opPing, payload[:], w.mask)
}

// write sends b, or keeps what the socket does not take.
func (w *worker) write(p *peer, b []byte) {
	if len(p.out) > 0 {
		if len(p.out)+len(b) > maxPeerOut {
			w.lose(p, errors.New("the hub does not read"))
			return
		}
		p.out = append(p.out, b...)
		return
	}
	for len(b) > 0 {
		n, err := unix.Write(int(p.fd), b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			p.out = append([]byte(nil), b...)
			return
		case err != nil:
			w.lose(p, err)
			return
		default:
			b = b[n:]
		}
	}
}

// hangUp closes p's socket, if it has one.
func (w *worker) hangUp(p *peer) {
	if p.fd < 0 {
		return
	}
	_ = unix.Close(int(p.fd)) // what is to be lost with it was not acknowledged
	if p.state == ready {
		w.s.ready.Add(-1)
	}
	p.fd, p.was, p.state, p.in, p.out, p.mark, p.tokens = -1, p.state, away, nil, nil, 0, nil
}

// lose hangs up because of err, and tells.
func (w *worker) lose(p *peer, err error) {
	if p.fd < 0 {
		return
	}
	if p.state == ready {
		w.s.lost.Add(1)
	} else {
		w.s.failures.Add(1)
	}
	w.hangUp(p)
	if w.s.lastRefusal.Load() == nil {
		w.refused([]byte(err.Error()))
	}
	w.tell(p)
}

func (w *worker) refused(what []byte) {
	text := string(what)
	w.s.lastRefusal.Store(&text)
}
