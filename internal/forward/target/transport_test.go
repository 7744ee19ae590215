package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

// patience is how long a test waits for what must happen, impatience how long a target that is to give
// up does.
const (
	patience   = 30 * time.Second
	impatience = time.Second
)

// within gives a context that ends with the test, or when it has waited long enough.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// messages makes n of them, the first at position first; line by line "m<position>".
func messages(first, n int) []forward.Message {
	list := make([]forward.Message, n)
	for i := range list {
		p := first + i
		list[i] = forward.Message{
			Position: signalbox.Position(p), Cursor: "abcdefgh-" + strconv.Itoa(p), Body: []byte("m" + strconv.Itoa(p)),
		}
	}
	return list
}

// settlements notes what settled is told.
type settlements struct {
	mu   sync.Mutex
	last signalbox.Position
	back bool // it went back, or came twice
	news chan struct{}
}

func newSettlements() *settlements { return &settlements{news: make(chan struct{}, 1)} }

func (s *settlements) settled(p signalbox.Position) {
	s.mu.Lock()
	s.back = s.back || p <= s.last
	s.last = p
	s.mu.Unlock()
	signal(s.news)
}

func (s *settlements) get() signalbox.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// await waits until p is settled.
func (s *settlements) await(t *testing.T, p signalbox.Position) {
	t.Helper()
	deadline := time.After(patience)
	for s.get() < p {
		select {
		case <-s.news:
		case <-deadline:
			t.Fatalf("settled up to %d; position %d was waited for", s.get(), p)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back {
		t.Error("what is settled went back, or was told twice")
	}
}

// awaitBroken waits until the sink notices by itself, and gives why.
func awaitBroken(t *testing.T, s forward.Sink) error {
	t.Helper()
	select {
	case <-s.Broken():
	case <-time.After(patience):
		t.Fatal("the sink does not notice that it is broken")
	}
	if s.Err() == nil {
		t.Fatal("the sink is broken and does not say why")
	}
	return s.Err()
}

// closeSink closes the sink, which must not take long.
func closeSink(t *testing.T, s forward.Sink) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Close does not return")
	}
}

// server is a listener on loopback whose connections a test takes one by one.
type server struct {
	net.Listener

	t *testing.T
}

func serve(t *testing.T) *server {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &server{Listener: l, t: t}
}

func (s *server) next() *net.TCPConn {
	s.t.Helper()
	s.Listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	conn, err := s.Accept()
	if err != nil {
		s.t.Fatalf("nobody connects: %v", err)
	}
	s.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// wants checks that the next lines are those of the messages.
func wants(t *testing.T, r io.Reader, list []forward.Message) {
	t.Helper()
	var text strings.Builder
	for _, m := range list {
		text.Write(m.Body)
		text.WriteByte('\n')
	}
	got := make([]byte, text.Len())
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("the receiver got %q: %v", got, err)
	}
	if string(got) != text.String() {
		t.Errorf("the receiver got %.200q, want %.200q", got, text.String())
	}
}

// open makes a target of spec that may use any address, quick to settle, and opens a sink.
func open(t *testing.T, spec *forward.Spec, s *settlements) forward.Sink {
	t.Helper()
	return openOf(t, newTarget(t, spec), s)
}

func openOf(t *testing.T, target forward.Target, s *settlements) forward.Sink {
	t.Helper()
	sink, err := target.Open(within(t), s.settled)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}

func newTarget(t *testing.T, spec *forward.Spec) forward.Target {
	t.Helper()
	target, err := New(spec, true, nil, "/signalbox/test", quiet())
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() { target.Close() })
	switch target := target.(type) {
	case *tcpTarget:
		target.config.settleAfter = 50 * time.Millisecond
	case *listenTarget:
		target.config.settleAfter = 50 * time.Millisecond
	case *udpTarget:
		target.settles = 50 * time.Millisecond
	}
	return target
}

// hasty makes a target that soon gives up a receiver which takes nothing; to connect there is time.
func hasty(t *testing.T, spec *forward.Spec) forward.Target {
	t.Helper()
	target := newTarget(t, spec)
	switch target := target.(type) {
	case *tcpTarget:
		target.config.timeout = impatience
	case *listenTarget:
		target.config.timeout = impatience
	case *webSocketTarget:
		target.timeout = impatience
	case *mqttTarget:
		target.timeout = impatience
	default:
		t.Fatalf("a %T is never hasty", target)
	}
	return target
}

// nobody gives an address of TCP at which nobody listens, nor will: a connection has its port.
func nobody(t *testing.T) string {
	t.Helper()
	there := serve(t)
	conn := dial(t, there.Addr().String())
	return conn.LocalAddr().String()
}

func TestNewRefuses(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}
	for _, c := range []struct {
		name, to string
		trusted  bool
		want     string // part of the error; "": none
		allow    string // of the spec, with blanks between
	}{
		{name: "unknown scheme", to: "ftp://h:1", want: "ftp"},
		{name: "no port", to: "tcp://h", want: "no port"},
		{name: "no host", to: "udp://:9", want: "no host"},
		{name: "a path", to: "tcp://h:1/x", want: "more than host and port"},
		{name: "a password in a WebSocket's address", to: "ws://u:hidden@h/", want: "credentials"},
		{name: "loopback through the API", to: "tcp://127.0.0.1:1", want: "127.0.0.1 is loopback"},
		{name: "metadata service through the API", to: "http://169.254.169.254/x", want: "link-local"},
		{name: "IPv6 loopback through the API", to: "ws://[::1]:1/", want: "loopback"},
		{name: "mapped IPv4 through the API", to: "udp://[::ffff:10.0.0.1]:1", want: "private"},
		{name: "loopback in the file", to: "tcp://127.0.0.1:1", trusted: true},
		{name: "allowed through the API", to: "tcp://192.168.7.9:1"},
		{name: "not allowed through the API", to: "tcp://192.168.8.9:1", want: "forward.allow"},
		{name: "MQTT without a port", to: "mqtt://8.8.8.8"},
		{name: "a public address", to: "tcp://8.8.8.8:1"},
		{name: "listening to the network", to: "tcp-listen://0.0.0.0:1", trusted: true, want: "allow"},
		{name: "listening everywhere", to: "tcp-listen://:1", trusted: true, want: "allow"},
		{name: "listening on loopback", to: "tcp-listen://127.0.0.1:1"},
		{name: "listening to all in the file", to: "tcp-listen://:1", trusted: true, allow: "0.0.0.0/0 ::/0"},
		{name: "listening to all through the API", to: "tcp-listen://:1", allow: "0.0.0.0/0", want: "forward.allow"},
		{name: "listening to all of IPv6 through the API", to: "tcp-listen://[::]:1", allow: "::/0", want: "forward.allow"},
		{name: "listening to more than is allowed", to: "tcp-listen://:1", allow: "192.168.6.0/23", want: "192.168.6.0/23"},
		{name: "listening to more than loopback", to: "tcp-listen://127.0.0.1:1", allow: "126.0.0.0/7", want: "forward.allow"},
		{name: "listening to what is allowed and more", to: "tcp-listen://:1", allow: "192.168.7.9/32 8.8.8.8/32", want: "8.8.8.8/32"},
		{name: "listening to a mapped network", to: "tcp-listen://:1", allow: "::ffff:10.0.0.0/104", want: "10.0.0.0/8"},
		{name: "listening to what is allowed", to: "tcp-listen://:1", allow: "192.168.7.128/25 127.0.0.1/32 ::1/128"},
		{name: "a port for nobody through the API", to: "tcp-listen://:1", allow: "127.0.0.0/8", want: "open to the network"},
		{name: "loopback for loopback through the API", to: "tcp-listen://[::1]:1", allow: "::1/128"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := &forward.Spec{Name: "f", To: c.to}
			for network := range strings.FieldsSeq(c.allow) {
				spec.Allow = append(spec.Allow, netip.MustParsePrefix(network))
			}
			target, err := New(spec, c.trusted, own, "/signalbox/test", quiet())
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				target.Close()
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hidden") {
				t.Fatalf("New gave %v, want an error with %q", err, c.want)
			}
			if !errors.Is(err, forward.ErrTarget) {
				t.Errorf("the error %v is not forward.ErrTarget", err)
			}
		})
	}
}

func TestTrail(t *testing.T) {
	var tr trail
	now := time.Unix(1000, 0)
	for i := range 10 {
		tr.add(signalbox.Position(i+1), int64(10*i+10), now.Add(time.Duration(i)*time.Second))
	}
	if p, ok := tr.passed(1000, now.Add(-time.Second)); ok {
		t.Errorf("%d passed before its time", p)
	}
	if p, ok := tr.passed(35, now.Add(8*time.Second)); !ok || p != 3 {
		t.Errorf("passed %d, %v by 35 bytes; want 3", p, ok)
	}
	if p, ok := tr.passed(1000, now.Add(5*time.Second)); !ok || p != 6 {
		t.Errorf("passed %d, %v after 5 s; want 6", p, ok)
	}
	// However much is sent, and acknowledged by nobody, the trail is short.
	for i := range 100_000 {
		tr.add(signalbox.Position(100+i), int64(1000+i), now.Add(time.Minute+time.Duration(i)*20*time.Millisecond))
	}
	if len(tr.marks) > maxMarks {
		t.Errorf("the trail has %d marks; %d are allowed", len(tr.marks), maxMarks)
	}
	if p, ok := tr.passed(1<<40, now.Add(time.Hour)); !ok || p != 100_099 {
		t.Errorf("passed %d, %v in the end; want all", p, ok)
	}
}

// TestUnsent has messages that share a position, as those which a replay plays do.
func TestUnsent(t *testing.T) {
	batch := []forward.Message{{Position: 4}, {Position: 7}, {Position: 7}, {Position: 7}, {Position: 9}}
	for from, want := range []signalbox.Position{4, 5, 8, 8, 8, 10} {
		err, is := errors.AsType[*forward.Unsent](unsent(batch, from, io.EOF))
		if !is || err.From != want || !errors.Is(err, io.EOF) {
			t.Errorf("behind %d messages it is %+v, want %d", from, err, want)
		}
	}
}

func TestMakeBlock(t *testing.T) {
	list := []forward.Message{
		{Position: 1, Cursor: "old-1", Body: []byte("a")},
		{Position: 2, Cursor: "old-2", Body: []byte("b\n")},
		{Position: 3, Cursor: "new-3", Body: nil},
		{Position: 4, Cursor: "new-4", Body: make([]byte, 2*blockSize)},
	}
	b := makeBlock(nil, list, true)
	if string(b.lines) != "a\nb\n\n" || b.messages != 3 || b.first != 1 || b.last != 3 {
		t.Errorf("the first block is %q of %d messages, %d to %d", b.lines, b.messages, b.first, b.last)
	}
	if got := fmt.Sprint(b.epochs); got != "[old new]" {
		t.Errorf("its epochs are %s", got)
	}
	if b = makeBlock(nil, list[3:], true); b.messages != 1 || len(b.lines) != 2*blockSize+1 {
		t.Errorf("a long message makes a block of %d messages and %d bytes", b.messages, len(b.lines))
	}
}
