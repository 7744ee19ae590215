package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"signalbox/internal/sim"
)

const (
	forwardRate = 50_000
	// away is how long a receiver is not there, but no longer than awayLoads loads.
	away, awayLoads = time.Minute, 6
	// catchUp is how long a forwarder may take for what has gathered.
	catchUp = 10 * time.Minute
)

// liveForward measures forwarders: over TCP, over UDP, and what a receiver gets that was away.
func (b *bencher) liveForward(ctx context.Context) error {
	rate := b.Rate
	if rate <= 0 {
		rate = forwardRate
	}
	n := loadDevices
	if b.Connections > 0 {
		n = min(b.Connections, n)
	}
	const tcpRow, udpRow, awayRow = "forward over TCP", "forward over UDP", "forward, receiver away"
	runs := map[string][][]Value{}
	for run := range b.Runs {
		for _, row := range []string{tcpRow, udpRow} {
			b.Logger.Info("measuring forwarding", "run", run+1, "row", row, "rate", rate)
			values, err := b.forward(ctx, n, rate, row == udpRow)
			if err != nil {
				return fmt.Errorf("%s: %w", row, err)
			}
			runs[row] = append(runs[row], values)
		}
	}
	b.report.add(tcpRow, runs[tcpRow]...)
	b.report.add(udpRow, runs[udpRow]...)
	gone := min(away, awayLoads*b.Duration)
	b.Logger.Info("measuring a receiver that is away", "for", gone)
	values, err := b.forwardAway(ctx, n, rate, gone)
	if err != nil {
		return fmt.Errorf("%s: %w", awayRow, err)
	}
	b.report.add(awayRow, values)
	r := b.report
	r.goal("forward over TCP: messages in the time they were sent in", 100*r.get(tcpRow, "in time")/r.get(tcpRow, "messages"), 99, true, "%")
	r.goal("forward over UDP: messages in the time they were sent in", 100*r.get(udpRow, "in time")/r.get(udpRow, "messages"), 99, true, "%")
	r.goal("forward, receiver away: messages lost", r.get(awayRow, "lost"), 0, false, "")
	r.goal("forward, receiver away: out of order", r.get(awayRow, "out of order"), 0, false, "")
	r.goal("forward, receiver away: repeated without a mark", r.get(awayRow, "unmarked"), 0, false, "")
	r.note("forward: %s messages/s from %d devices, JSON lines. in time: what had arrived a second after the load ended. The receiver over TCP acknowledges. "+
		"away: it goes in the middle, unread bytes in its socket, and is back after %s; all devices' messages are looked for one by one, in order.", format(rate), n, gone)
	return nil
}

// receiver is the other computer: it checks what comes, device by device.
type receiver struct {
	mu       sync.Mutex
	last     map[string]uint64 // the number of each device's last message
	received atomic.Int64      // messages that had not come before
	repeated int64
	unmarked int64 // of those
	gaps     int64
}

func newReceiver() *receiver { return &receiver{last: make(map[string]uint64)} }

// line takes a line and gives its cursor.
func (r *receiver) line(b []byte) (cursor []byte) {
	device, _ := textOf(b, `"device":"`)
	cursor, _ = textOf(b, `"cursor":"`)
	n := sim.Counter(numberOf(b, `"n":`))
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.last[string(device)]
	switch {
	case n == last+1:
		r.last[string(device)] = n
		r.received.Add(1)
	case n > last+1:
		r.gaps += int64(n - last - 1) //nolint:gosec // small
		r.last[string(device)] = n
		r.received.Add(1)
	default:
		r.repeated++
		if !bytes.Contains(b, []byte(`"redelivered":true`)) {
			r.unmarked++
		}
	}
	return cursor
}

// textOf gives the text behind a name up to the next quotation mark.
func textOf(b []byte, name string) ([]byte, bool) {
	_, rest, ok := bytes.Cut(b, []byte(name))
	if !ok {
		return nil, false
	}
	text, _, ok := bytes.Cut(rest, []byte(`"`))
	return text, ok
}

// numberOf gives the number behind a name; 0 if there is none.
func numberOf(b []byte, name string) (n uint64) {
	_, rest, _ := bytes.Cut(b, []byte(name))
	for _, c := range rest {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}

// serveTCP takes lines from one connection and acknowledges what it has, a read at a time.
func (r *receiver) serveTCP(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, viewerBuffer)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		cursor := r.line(line)
		if in.Buffered() == 0 && cursor != nil {
			if _, err := conn.Write(append(bytes.Clone(cursor), '\n')); err != nil {
				return nil //nolint:nilerr // it was closed
			}
		}
	}
}

// serveUDP takes datagrams until the socket is closed.
func (r *receiver) serveUDP(conn *net.UDPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		r.line(buf[:n])
	}
}

// listenUDP gives a socket with as large a buffer as the system allows.
func listenUDP() (*net.UDPConn, error) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			const size = 8 << 20
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil { // for root alone
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size) // as much as is allowed
			}
		})
	}
	return conn, err
}

// addForwarder has the hub forward everything to a target.
func (l *liveHub) addForwarder(ctx context.Context, to string, ack bool) error {
	body := fmt.Sprintf(`{"name":"bench","to":%q}`, to)
	if ack {
		body = fmt.Sprintf(`{"name":"bench","to":%q,"ack":true}`, to)
	}
	_, err := l.api.do(ctx, http.MethodPost, "/api/v1/forwarders", []byte(body))
	return err
}

// forward measures one load.
func (b *bencher) forward(ctx context.Context, n int, rate float64, udp bool) (values []Value, err error) {
	l, err := b.startLive(ctx, n, "admin", false, "SIGNALBOX_FORWARD_ALLOW=127.0.0.0/8")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	r := newReceiver()
	to, end, err := r.open(ctx, udp)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := l.addForwarder(ctx, to, !udp); err != nil {
		return nil, err
	}
	cpu, err := usedCPU(l)
	if err != nil {
		return nil, err
	}
	sent, err := l.swarm.Send(ctx, sim.Load{Duration: b.Duration, Rate: rate})
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	inTime := r.received.Load()
	cpuAfter, err := usedCPU(l)
	if err != nil {
		return nil, err
	}
	late, err := r.await(ctx, sent.Messages, udp)
	if err != nil {
		return nil, err
	}
	return append([]Value{
		{"messages", "", float64(sent.Messages)},
		{"rate", "/s", float64(sent.Messages) / sent.Sending.Seconds()},
		{"in time", "", float64(inTime)},
		{"CPU", "s/1M", (cpuAfter - cpu) * 1e6 / float64(sent.Messages)},
	}, r.values(sent.Messages, late)...), nil
}

// open opens the receiver's door; end closes it and waits for all that was begun.
func (r *receiver) open(ctx context.Context, udp bool) (to string, end func() error, err error) {
	var serving sync.WaitGroup
	if udp {
		conn, err := listenUDP()
		if err != nil {
			return "", nil, err
		}
		serving.Go(func() { r.serveUDP(conn) })
		return "udp://" + conn.LocalAddr().String(), func() error { err := conn.Close(); serving.Wait(); return err }, nil
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	cut, wait := r.accept(ln)
	return "tcp://" + ln.Addr().String(), func() error { cut(); return wait() }, nil
}

// accept serves connections of ln until it is closed: cut closes it and all of them at once.
func (r *receiver) accept(ln net.Listener) (cut func(), wait func() error) {
	var (
		mu     sync.Mutex
		conns  []net.Conn
		failed error
		group  sync.WaitGroup
	)
	group.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			group.Go(func() {
				if err := r.serveTCP(conn); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			})
		}
	})
	cut = func() {
		_ = ln.Close() // it may be closed already
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close() // with what was not read
		}
	}
	return cut, func() error {
		group.Wait()
		return failed
	}
}

// await waits until so many messages have come, or, over UDP, nothing more comes, and gives how long that took.
func (r *receiver) await(ctx context.Context, messages int64, udp bool) (time.Duration, error) {
	start, last, since := time.Now(), int64(-1), time.Now()
	for {
		have := r.received.Load()
		if have >= messages {
			return time.Since(start), nil
		}
		if have != last {
			last, since = have, time.Now()
		}
		switch quiet := time.Since(since); {
		case udp && quiet > 2*time.Second:
			return since.Sub(start), nil
		case quiet > time.Minute, time.Since(start) > catchUp:
			return 0, fmt.Errorf("%d of %d messages arrived", have, messages)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// values tell what became of so many messages.
func (r *receiver) values(messages int64, late time.Duration) []Value {
	r.mu.Lock()
	defer r.mu.Unlock()
	return []Value{
		{"lost", "", float64(messages - r.received.Load())},
		{"out of order", "", float64(r.gaps)},
		{"repeated", "", float64(r.repeated)},
		{"unmarked", "", float64(r.unmarked)},
		{"all after", "s", late.Seconds()},
	}
}

// listenAgain listens at an address that was free for a while: somebody else's connection may have it for a moment.
func listenAgain(ctx context.Context, address string) (net.Listener, error) {
	for began := time.Now(); ; {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil || time.Since(began) > startPatience {
			return ln, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// forwardAway measures what a receiver gets that goes in the middle and comes back.
func (b *bencher) forwardAway(ctx context.Context, n int, rate float64, gone time.Duration) (values []Value, err error) {
	l, err := b.startLive(ctx, n, "admin", false, "SIGNALBOX_FORWARD_ALLOW=127.0.0.0/8")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	r := newReceiver()
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // it is TCP
	cut, wait := r.accept(ln)
	if err := l.addForwarder(ctx, "tcp://127.0.0.1:"+port, true); err != nil {
		cut()
		return nil, errors.Join(err, wait())
	}
	loading := make(chan error, 1)
	var sent sim.Sent
	go func() {
		var err error
		sent, err = l.swarm.Send(ctx, sim.Load{Duration: gone + 2*b.Duration, Rate: rate})
		loading <- err
	}()
	time.Sleep(b.Duration)
	cut()
	cutOff := wait() // a connection that was cut in the middle
	time.Sleep(gone)
	before := r.received.Load()
	back := time.Now()
	if ln, err = listenAgain(ctx, "127.0.0.1:"+port); err != nil {
		return nil, errors.Join(err, cutOff, <-loading)
	}
	cut, wait = r.accept(ln)
	defer func() {
		cut()
		err = errors.Join(err, wait())
	}()
	if err := <-loading; err != nil {
		return nil, err
	}
	late, err := r.await(ctx, sent.Messages, false)
	if err != nil {
		return nil, err
	}
	took := time.Since(back).Seconds()
	return append([]Value{
		{"messages", "", float64(sent.Messages)},
		{"rate", "/s", float64(sent.Messages) / sent.Sending.Seconds()},
		{"waited for it", "", float64(sent.Messages - before)},
		{"caught up", "/s", float64(sent.Messages-before) / took},
	}, r.values(sent.Messages, late)...), nil
}
