package ws_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/ws"
)

const patience = 30 * time.Second

// transports are the implementations that the rules are tested on.
var transports = []struct {
	name  string
	tls   bool
	serve func(*loop.Group, context.Context, net.Listener, loop.Handler) error
}{
	{"loop", false, (*loop.Group).Serve},
	{"plain", false, (*loop.Group).ServePlain},
	{"tls", true, func(g *loop.Group, ctx context.Context, ln net.Listener, h loop.Handler) error {
		conf, err := certificate()
		if err != nil {
			return err
		}
		return g.ServeTLS(ctx, ln, conf, h)
	}},
}

var certificate = sync.OnceValues(func() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, err
})

// message is what an endpoint received.
type message struct {
	binary bool
	data   string
}

// endpoint records what it receives, and echoes.
type endpoint struct {
	t        testing.TB
	conn     *ws.Conn
	receive  func(e *endpoint, binary bool, payload []byte) time.Duration
	messages chan message
	closed   chan error
}

func (e *endpoint) Opened(c *ws.Conn) { e.conn = c }

func (e *endpoint) Receive(c *ws.Conn, isBinary bool, payload []byte) time.Duration {
	if c != e.conn {
		e.t.Error("Receive with another Conn")
	}
	if e.receive != nil {
		return e.receive(e, isBinary, payload)
	}
	e.messages <- message{isBinary, string(payload)}
	return 0
}

func (e *endpoint) Tick(*ws.Conn, time.Time) {}

func (e *endpoint) Closed(_ *ws.Conn, err error) { e.closed <- err }

func (e *endpoint) ended() error {
	e.t.Helper()
	select {
	case err := <-e.closed:
		return err
	case <-time.After(patience):
		e.t.Fatal("Closed was not called")
		return nil
	}
}

type upgrader struct {
	t         testing.TB
	upgrade   func(r *ws.Request) *ws.Refusal
	receive   func(e *endpoint, binary bool, payload []byte) time.Duration
	endpoints chan *endpoint
}

func (u *upgrader) Upgrade(r *ws.Request) (ws.Endpoint, *ws.Refusal) {
	if u.upgrade != nil {
		if refusal := u.upgrade(r); refusal != nil {
			return nil, refusal
		}
	}
	e := &endpoint{t: u.t, receive: u.receive, messages: make(chan message, 1000), closed: make(chan error, 1)}
	u.endpoints <- e
	return e, nil
}

// side is a running server and how to reach it.
type side struct {
	*upgrader
	server *ws.Server
	addr   string
	tls    bool
}

// start runs a server over the transport until the test ends.
func start(t testing.TB, transport int, cfg ws.Config, lcfg loop.Config, with ...func(*upgrader)) *side {
	t.Helper()
	tr := transports[transport]
	g, err := loop.New(lcfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &side{upgrader: &upgrader{t: t, endpoints: make(chan *endpoint, 10)}, addr: ln.Addr().String(), tls: tr.tls}
	for _, set := range with {
		set(s.upgrader)
	}
	s.server = ws.NewServer(cfg, s.upgrader)
	served := make(chan error, 1)
	go func() { served <- tr.serve(g, context.Background(), ln, s.server) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := s.server.Stats().Open.Load(); n != 0 {
			t.Errorf("%d endpoints are open after Close", n)
		}
	})
	return s
}

// peer is a raw client.
type peer struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func (s *side) dial(t testing.TB) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	raw := nc
	if s.tls {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
	}
	t.Cleanup(func() { raw.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &peer{Conn: nc, t: t, r: bufio.NewReader(nc)}
}

const request = "GET /any?x=1 HTTP/1.1\r\nHost: hub.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

func (p *peer) send(b ...string) {
	p.t.Helper()
	if _, err := io.WriteString(p, strings.Join(b, "")); err != nil {
		p.t.Error(err)
	}
}

// head reads an HTTP answer's head.
func (p *peer) head() string {
	p.t.Helper()
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n\r\n") {
		c, err := p.r.ReadByte()
		if err != nil {
			p.t.Fatalf("after %q: %v", b.String(), err)
		}
		b.WriteByte(c)
	}
	return b.String()
}

// open dials and upgrades.
func (s *side) open(t testing.TB) (*peer, *endpoint) {
	t.Helper()
	p := s.dial(t)
	p.send(request, "\r\n")
	if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("answer %q", head)
	}
	return p, <-s.endpoints
}

// frame builds a masked frame from its first byte and payload.
func frame(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x37, 0xfa, 0x21, byte(len(payload))}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

const fin = 0x80

func text(s string) string { return frame(fin|1, s) }

func closing(code uint16, reason string) string {
	return frame(fin|8, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

// next reads one frame of the server.
func (p *peer) next() (op byte, payload string, err error) {
	var h [2]byte
	if _, err = io.ReadFull(p.r, h[:]); err != nil {
		return 0, "", err
	}
	if h[0]&0xf0 != fin || h[1]&0x80 != 0 {
		return 0, "", fmt.Errorf("bad frame head %x", h)
	}
	n := int(h[1])
	switch n {
	case 126:
		var l [2]byte
		io.ReadFull(p.r, l[:])
		n = int(binary.BigEndian.Uint16(l[:]))
	case 127:
		var l [8]byte
		io.ReadFull(p.r, l[:])
		n = int(binary.BigEndian.Uint64(l[:]))
	}
	b := make([]byte, n)
	_, err = io.ReadFull(p.r, b)
	return h[0] & 15, string(b), err
}

// expectClose reads up to the close frame and the end after it, and returns its code and reason.
func (p *peer) expectClose() (uint16, string) {
	p.t.Helper()
	for {
		op, payload, err := p.next()
		switch {
		case err != nil:
			p.t.Fatalf("no close frame: %v", err)
		case op != 8:
			continue
		}
		if _, err := p.r.ReadByte(); !errors.Is(err, io.EOF) {
			p.t.Errorf("after the close frame: %v, want EOF", err)
		}
		if payload == "" {
			return 1005, ""
		}
		return binary.BigEndian.Uint16([]byte(payload)), payload[2:]
	}
}

// rules are what the peer sends after the upgrade, and what comes of it. limit is 1000 bytes.
var rules = []struct {
	name   string
	send   string
	want   []message
	code   uint16 // of the server's close frame, 0 if the connection goes on
	refuse bool   // the error is a *Violation of that code, else a *PeerClose
}{
	{name: "text", send: text("hello"), want: []message{{false, "hello"}}},
	{name: "empty text", send: text(""), want: []message{{false, ""}}},
	{name: "binary", send: frame(fin|2, "\xff\x00"), want: []message{{true, "\xff\x00"}}},
	{name: "unmasked by zeros", send: "\x81\x82\x00\x00\x00\x00hi", want: []message{{false, "hi"}}},
	{name: "several", send: text("a") + text("b") + frame(fin|2, "c"), want: []message{{false, "a"}, {false, "b"}, {true, "c"}}},
	{name: "125 bytes", send: text(strings.Repeat("x", 125)), want: []message{{false, strings.Repeat("x", 125)}}},
	{name: "126 bytes", send: text(strings.Repeat("x", 126)), want: []message{{false, strings.Repeat("x", 126)}}},
	{name: "limit", send: text(strings.Repeat("x", 1000)), want: []message{{false, strings.Repeat("x", 1000)}}},
	{name: "characters", send: text("работает 信号 🚦"), want: []message{{false, "работает 信号 🚦"}}},
	{name: "pong alone", send: frame(fin|10, "x") + text("a"), want: []message{{false, "a"}}},
	{name: "fragments", send: frame(1, "a") + frame(0, "") + frame(0, "b") + frame(fin, "c") + text("d"), want: []message{{false, "abc"}, {false, "d"}}},
	{name: "binary fragments", send: frame(2, "\xff") + frame(fin, "\xfe"), want: []message{{true, "\xff\xfe"}}},
	{name: "control between fragments", send: frame(1, "a") + frame(fin|9, "p") + frame(fin|10, "") + frame(fin, "c"), want: []message{{false, "ac"}}},
	{name: "character over fragments", send: frame(1, "\xf0\x9f") + frame(0, "\x9a") + frame(fin, "\xa6"), want: []message{{false, "🚦"}}},
	{name: "fragments up to the limit", send: frame(1, strings.Repeat("x", 999)) + frame(fin, "y"), want: []message{{false, strings.Repeat("x", 999) + "y"}}},

	{name: "unmasked", send: text("a") + "\x81\x01x", want: []message{{false, "a"}}, code: 1002, refuse: true},
	{name: "rsv1", send: frame(fin|0x40|1, "x"), code: 1002, refuse: true},
	{name: "rsv2", send: frame(fin|0x20|1, "x"), code: 1002, refuse: true},
	{name: "rsv3", send: frame(fin|0x10|9, "x"), code: 1002, refuse: true},
	{name: "opcode 3", send: frame(fin|3, "x"), code: 1002, refuse: true},
	{name: "opcode 7", send: frame(fin|7, "x"), code: 1002, refuse: true},
	{name: "opcode 11", send: frame(fin|11, "x"), code: 1002, refuse: true},
	{name: "opcode 15", send: frame(fin|15, "x"), code: 1002, refuse: true},
	{name: "fragmented ping", send: frame(9, "x"), code: 1002, refuse: true},
	{name: "fragmented close", send: frame(8, ""), code: 1002, refuse: true},
	{name: "long ping", send: frame(fin|9, strings.Repeat("x", 126)), code: 1002, refuse: true},
	{name: "continuation of nothing", send: frame(fin, "x"), code: 1002, refuse: true},
	{name: "continuation after the end", send: frame(1, "x") + frame(fin, "") + frame(0, "x"), want: []message{{false, "x"}}, code: 1002, refuse: true},
	{name: "text within a message", send: frame(1, "x") + text("y"), code: 1002, refuse: true},
	{name: "16-bit length not shortest", send: "\x81\xfe\x00\x7d", code: 1002, refuse: true},
	{name: "64-bit length not shortest", send: "\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff", code: 1002, refuse: true},
	{name: "negative length", send: "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", code: 1002, refuse: true},
	{name: "lowest negative length", send: "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00", code: 1002, refuse: true},
	{name: "highest length", send: "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", code: 1009, refuse: true},
	{name: "over the limit", send: "\x81\xfe\x03\xe9", code: 1009, refuse: true},
	{name: "fragments over the limit", send: frame(1, strings.Repeat("x", 999)) + frame(fin, "yz"), code: 1009, refuse: true},
	{name: "bad UTF-8", send: text("a\xffb"), code: 1007, refuse: true},
	{name: "cut UTF-8", send: text("a\xf0\x9f"), code: 1007, refuse: true},
	{name: "surrogate", send: text("\xed\xa0\x80"), code: 1007, refuse: true},
	{name: "overlong", send: text("\xc0\x80"), code: 1007, refuse: true},
	{name: "beyond Unicode", send: text("\xf4\x90\x80\x80"), code: 1007, refuse: true},
	{name: "bad UTF-8 in a fragment", send: frame(1, "a\xff"), code: 1007, refuse: true},
	{name: "bad UTF-8 over fragments", send: frame(1, "\xe4") + frame(0, "a"), code: 1007, refuse: true},
	{name: "cut UTF-8 over fragments", send: frame(1, "\xf0\x9f") + frame(fin, "\x9a"), code: 1007, refuse: true},
	{name: "many continuation bytes", send: frame(1, "\x80\x80\x80\x80\x80"), code: 1007, refuse: true},

	{name: "close", send: closing(1000, "bye"), code: 1000},
	{name: "close without code", send: frame(fin|8, ""), code: 1005},
	{name: "close 3000", send: closing(3000, ""), code: 3000},
	{name: "close 4999", send: closing(4999, "причина"), code: 4999},
	{name: "close 1001", send: closing(1001, ""), code: 1001},
	{name: "close 1012", send: closing(1012, ""), code: 1012},
	{name: "nothing after close", send: text("a") + closing(1000, "") + text("b"), want: []message{{false, "a"}}, code: 1000},
	{name: "close within a message", send: frame(1, "a") + closing(1000, ""), code: 1000},
	{name: "close of one byte", send: frame(fin|8, "\x03"), code: 1002, refuse: true},
	{name: "close 0", send: closing(0, ""), code: 1002, refuse: true},
	{name: "close 999", send: closing(999, ""), code: 1002, refuse: true},
	{name: "close 1004", send: closing(1004, ""), code: 1002, refuse: true},
	{name: "close 1005", send: closing(1005, ""), code: 1002, refuse: true},
	{name: "close 1006", send: closing(1006, ""), code: 1002, refuse: true},
	{name: "close 1015", send: closing(1015, ""), code: 1002, refuse: true},
	{name: "close 1016", send: closing(1016, ""), code: 1002, refuse: true},
	{name: "close 2999", send: closing(2999, ""), code: 1002, refuse: true},
	{name: "close 5000", send: closing(5000, ""), code: 1002, refuse: true},
	{name: "close with bad UTF-8", send: closing(1000, "\xff"), code: 1007, refuse: true},
}

// TestRules checks each rule with the bytes in one piece, after the request in one piece, and byte by byte.
func TestRules(t *testing.T) {
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := start(t, i, ws.Config{MessageBytes: 1000}, loop.Config{})
			for _, r := range rules {
				for _, pieces := range []string{"one piece", "with request", "bytes"} {
					t.Run(r.name+"/"+pieces, func(t *testing.T) {
						p := s.dial(t)
						bytesOf, wants := r.send, slices.Clone(r.want)
						switch pieces {
						case "with request":
							p.send(request, "\r\n", bytesOf)
							p.head()
						case "one piece":
							p.send(request, "\r\n")
							p.head()
							p.send(bytesOf)
						default:
							p.send(request, "\r\n")
							p.head()
							for i := range len(bytesOf) {
								if _, err := io.WriteString(p, bytesOf[i:i+1]); err != nil && r.code == 0 {
									t.Fatal(err)
								}
							}
						}
						e := <-s.endpoints
						if r.code == 0 {
							p.send(text("end"))
							wants = append(wants, message{false, "end"})
						}
						if r.code != 0 {
							if code, _ := p.expectClose(); code != r.code {
								t.Errorf("close code %d, want %d", code, r.code)
							}
						}
						for _, want := range wants {
							select {
							case got := <-e.messages:
								if got != want {
									t.Errorf("received %v, want %v", got, want)
								}
							case <-time.After(patience):
								t.Fatalf("%v was not received", want)
							}
						}
						p.Close()
						err := e.ended()
						if violation, ok := errors.AsType[*ws.Violation](err); ok != r.refuse || ok && violation.Code != r.code {
							t.Errorf("Closed(%v)", err)
						}
						if peerClose, ok := errors.AsType[*ws.PeerClose](err); ok != (r.code != 0 && !r.refuse) || ok && peerClose.Code != r.code {
							t.Errorf("Closed(%v)", err)
						}
						if len(e.messages) > 0 {
							t.Errorf("also received %v", <-e.messages)
						}
					})
				}
			}
		})
	}
}

func TestHandshake(t *testing.T) {
	const get = "GET / HTTP/1.1\r\n"
	cases := []struct {
		name, send, want string // want is a part of the answer
	}{
		{"upgrade", request + "\r\n", "HTTP/1.1 101 "},
		{"accept key", request + "\r\n", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
		{"subprotocol and extensions asked for", request + "Sec-WebSocket-Protocol: arduino\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "HTTP/1.1 101 "},
		{"lower case", strings.ToLower(request[len(get)+7:]), ""},
		{"plain request", get + "Host: x\r\n\r\n", "HTTP/1.1 426 "},
		{"no headers", get + "\r\n", "HTTP/1.1 426 "},
		{"plain request says what is wanted", get + "\r\n", "speaks WebSocket"},
		{"version 8", strings.Replace(request, ": 13", ": 8", 1) + "\r\n", "HTTP/1.1 426 "},
		{"no version", strings.Replace(request, "Sec-WebSocket-Version: 13\r\n", "", 1) + "\r\n", "HTTP/1.1 400 "},
		{"no key", strings.Replace(request, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 1) + "\r\n", "HTTP/1.1 400 "},
		{"two keys", request + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "HTTP/1.1 400 "},
		{"short key", strings.Replace(request, "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", 1) + "\r\n", "HTTP/1.1 400 "},
		{"key is no base64", strings.Replace(request, "dGhlIHNhbXBsZSBub25jZQ==", "!!!!!!!!!!!!!!!!!!!!!!!!", 1) + "\r\n", "HTTP/1.1 400 "},
		{"no host", strings.Replace(request, "Host: hub.example\r\n", "", 1) + "\r\n", "HTTP/1.1 400 "},
		{"no connection", strings.Replace(request, "Connection: keep-alive, Upgrade\r\n", "", 1) + "\r\n", "HTTP/1.1 400 "},
		{"method", strings.Replace(request, "GET", "POST", 1) + "\r\n", "HTTP/1.1 400 "},
		{"version 1.0", strings.Replace(request, "HTTP/1.1", "HTTP/1.0", 1) + "\r\n", "HTTP/1.1 400 "},
		{"version 2.0", strings.Replace(request, "HTTP/1.1", "HTTP/2.0", 1) + "\r\n", "HTTP/1.1 400 "},
		{"body", request + "Content-Length: 5\r\n\r\nhello", "HTTP/1.1 400 "},
		{"chunks", request + "Transfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 400 "},
		{"folded line", request + " folded: x\r\n\r\n", "HTTP/1.1 400 "},
		{"space before the colon", request + "Name : x\r\n\r\n", "HTTP/1.1 400 "},
		{"line without colon", request + "Name\r\n\r\n", "HTTP/1.1 400 "},
		{"bare line feed", request + "A: b\nC: d\r\n\r\n", "HTTP/1.1 400 "},
		{"TLS", "\x16\x03\x01\x02\x00\x01", "HTTP/1.1 400 "},
		{"head too large", request + "A: " + strings.Repeat("x", 9000), "HTTP/1.1 431 "},
		{"whole head too large", request + "A: " + strings.Repeat("x", 9000) + "\r\n\r\n", "HTTP/1.1 431 "},
		{"refused", strings.Replace(request, "/any", "/refused", 1) + "\r\n", "HTTP/1.1 503 "},
		{"refused with a text", strings.Replace(request, "/any", "/refused", 1) + "\r\n", "\r\n\r\nToo many.\n"},
		{"chosen", strings.Replace(request, "/any", "/choose", 1) + "Sec-WebSocket-Protocol: a, signalbox.v2\r\n\r\n", "Sec-WebSocket-Protocol: signalbox.v2\r\n"},
		{"not offered", strings.Replace(request, "/any", "/choose", 1) + "Sec-WebSocket-Protocol: a\r\n\r\n", "HTTP/1.1 101 "},
	}
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := start(t, i, ws.Config{}, loop.Config{}, func(u *upgrader) {
				u.upgrade = func(r *ws.Request) *ws.Refusal {
					switch target, _, _ := strings.Cut(r.Target(), "?"); target {
					case "/refused":
						return &ws.Refusal{Status: 503, Text: "Too many."}
					case "/choose":
						if r.Choose("signalbox.v2") != (len(r.Subprotocols()) == 2) {
							t.Error("Choose is wrong")
						}
					}
					return nil
				}
			})
			for _, c := range cases {
				if c.want == "" {
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					p := s.dial(t)
					p.send(c.send)
					answer := p.head()
					if strings.Contains(answer, " 101 ") {
						e := <-s.endpoints
						p.Close()
						e.ended()
					} else {
						body, err := io.ReadAll(p.r)
						if err != nil {
							t.Error(err)
						}
						answer += string(body)
					}
					if !strings.Contains(answer, c.want) {
						t.Errorf("answer %q, want %q in it", answer, c.want)
					}
					if c.name != "chosen" && (strings.Contains(answer, "Protocol:") || strings.Contains(answer, "Extensions")) {
						t.Errorf("answer %q accepts what was not chosen", answer)
					}
				})
			}
		})
	}
}

func TestRequest(t *testing.T) {
	s := start(t, 0, ws.Config{}, loop.Config{}, func(u *upgrader) {
		u.upgrade = func(r *ws.Request) *ws.Refusal {
			got := fmt.Sprintf("%s %s %s %q %q %q", r.Header("host"), r.Target(), r.Header("origin"), r.Header("X-Forwarded-For"),
				r.Subprotocols(), r.Header("Absent"))
			if want := `hub.example /any?x=1 http://o "1.2.3.4, 5.6.7.8" ["a" "b" "c"] ""`; got != want {
				t.Errorf("request is %s, want %s", got, want)
			}
			if !r.RemoteAddr().Addr().IsLoopback() {
				t.Errorf("RemoteAddr = %v", r.RemoteAddr())
			}
			return nil
		}
	})
	p := s.dial(t)
	p.send(request, "Origin: http://o\r\nX-Forwarded-For: 1.2.3.4\r\nSec-WebSocket-Protocol: a, b\r\nx-forwarded-for:5.6.7.8 \r\n",
		"Sec-Websocket-Protocol: c\r\n\r\n")
	p.head()
	<-s.endpoints
	p.Close()
}

func TestSend(t *testing.T) {
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := start(t, i, ws.Config{}, loop.Config{OutboxBytes: 1 << 20})
			p, e := s.open(t)
			p.send(text("x"))
			<-e.messages
			for _, n := range []int{0, 1, 125, 126, 65535, 65536, 200_000} {
				want := strings.Repeat("x", n)
				if err := e.conn.Send([]byte(want)); err != nil {
					t.Fatal(err)
				}
				if op, got, err := p.next(); op != 1 || got != want || err != nil {
					t.Errorf("%d bytes: op %d, %d bytes, %v", n, op, len(got), err)
				}
			}
			for _, c := range []struct {
				code   uint16
				reason string
			}{{1005, ""}, {999, ""}, {1000, strings.Repeat("x", 124)}, {1000, "\xff"}} {
				if err := e.conn.SendClose(c.code, c.reason); !errors.Is(err, ws.ErrReason) {
					t.Errorf("SendClose(%d, %q) = %v", c.code, c.reason, err)
				}
			}
			e.conn.Send([]byte("before"))
			e.conn.SendClose(1013, "later")
			if code, reason := p.expectClose(); code != 1013 || reason != "later" {
				t.Errorf("closed with %d %q", code, reason)
			}
			if closing, ok := errors.AsType[*ws.Closing](e.ended()); !ok || closing.Code != 1013 {
				t.Errorf("Closed(%v)", closing)
			}
			if err := e.conn.Send([]byte("after")); err == nil {
				t.Error("Send after the end gives no error")
			}
		})
	}
}

func TestPing(t *testing.T) {
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := start(t, i, ws.Config{}, loop.Config{})
			p, _ := s.open(t)
			for _, want := range []string{"", "ping", strings.Repeat("x", 125)} {
				p.send(frame(fin|9, want))
				if op, got, err := p.next(); op != 10 || got != want || err != nil {
					t.Errorf("answer to ping %q: %d %q %v", want, op, got, err)
				}
			}
		})
	}
}

// TestPingFlood checks that a peer which pings and does not read is not cut, costs no memory, and gets its latest pong.
func TestPingFlood(t *testing.T) {
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := start(t, i, ws.Config{}, loop.Config{})
			p, e := s.open(t)
			block := strings.Repeat(frame(fin|9, strings.Repeat("x", 125)), 1000)
			p.SetDeadline(time.Now().Add(3 * patience))
			for s.server.Stats().PongsHeldBack.Load() == 0 {
				p.send(block)
			}
			p.send(frame(fin|9, "latest"), text("end"))
			<-e.messages
			if n := e.conn.Queued(); n > 8<<10 {
				t.Errorf("%d bytes are queued", n)
			}
			for {
				op, got, err := p.next()
				if err != nil || op != 10 {
					t.Fatalf("no pong for the latest ping: %d %q %v", op, got, err)
				}
				if got == "latest" {
					break
				}
			}
		})
	}
}

func TestPingTimeout(t *testing.T) {
	t.Parallel()
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			const misses = 4
			s := start(t, i, ws.Config{PingInterval: time.Second, PingMisses: misses}, loop.Config{})
			p, e := s.open(t)
			p.SetDeadline(time.Now().Add(4 * patience))
			if op, _, err := p.next(); op != 9 || err != nil {
				t.Fatalf("no ping: %d %v", op, err)
			}
			p.send(frame(fin|10, "")) // a sign of life: the count begins anew
			pings := 0
			for op, _, err := p.next(); err == nil; op, _, err = p.next() {
				if pings++; op != 9 {
					t.Errorf("a frame %d came", op)
				}
			}
			if pings < misses {
				t.Errorf("%d pings came after a sign of life, want %d", pings, misses)
			}
			if err := e.ended(); !errors.Is(err, ws.ErrPingTimeout) {
				t.Errorf("Closed(%v), want ErrPingTimeout", err)
			}
			if n := s.server.Stats().PingTimeouts.Load(); n != 1 {
				t.Errorf("PingTimeouts = %d, want 1", n)
			}
		})
	}
}

func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, i, ws.Config{HandshakeTimeout: 100 * time.Millisecond}, loop.Config{})
			p := s.dial(t)
			_, _ = io.WriteString(p, request) // a handshake of TLS may be too late as well
			if _, err := p.Read(make([]byte, 1)); err == nil {
				t.Error("got an answer")
			}
			if n := s.server.Stats().HandshakeTimeout.Load(); n != 1 {
				t.Errorf("HandshakeTimeout = %d, want 1", n)
			}
		})
	}
}

// TestWait checks that a message not taken comes again, unchanged, whole or in fragments.
func TestWait(t *testing.T) {
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			tries := 0
			s := start(t, i, ws.Config{}, loop.Config{}, func(u *upgrader) {
				u.receive = func(e *endpoint, isBinary bool, payload []byte) time.Duration {
					if tries++; tries%3 != 0 {
						return time.Millisecond
					}
					e.messages <- message{isBinary, string(payload)}
					return 0
				}
			})
			p, e := s.open(t)
			for n := range 50 {
				p.send(text(fmt.Sprint("whole ", n)), frame(1, "frag"), frame(0, "ment"), frame(fin, fmt.Sprint(" ", n)))
			}
			for n := range 50 {
				for _, want := range []string{fmt.Sprint("whole ", n), fmt.Sprint("fragment ", n)} {
					select {
					case got := <-e.messages:
						if got.data != want {
							t.Fatalf("received %q, want %q", got.data, want)
						}
					case <-time.After(patience):
						t.Fatalf("%q was not received", want)
					}
				}
			}
		})
	}
}

// TestCloseFromReceive checks that nothing is received after the endpoint has closed, and that the answer arrives.
func TestCloseFromReceive(t *testing.T) {
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := start(t, i, ws.Config{}, loop.Config{}, func(u *upgrader) {
				u.receive = func(e *endpoint, isBinary bool, payload []byte) time.Duration {
					e.messages <- message{isBinary, string(payload)}
					e.conn.Send([]byte(`{"error": "unauthorized"}`))
					e.conn.SendClose(1000, "")
					return 0
				}
			})
			p, e := s.open(t)
			p.send(strings.Repeat(text("hello"), 100))
			if op, got, err := p.next(); op != 1 || got != `{"error": "unauthorized"}` || err != nil {
				t.Errorf("answer %d %q %v", op, got, err)
			}
			if code, _ := p.expectClose(); code != 1000 {
				t.Errorf("closed with %d", code)
			}
			e.ended()
			if len(e.messages) != 1 {
				t.Errorf("%d messages were received, want 1", len(e.messages))
			}
		})
	}
}

func TestLargeMessages(t *testing.T) {
	for i, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := start(t, i, ws.Config{}, loop.Config{})
			p, e := s.open(t)
			big := bytes.Repeat([]byte("сигнал "), 1<<20/13-1)
			for _, n := range []int{0, 100, 65535 / 13 * 13, 65536/13*13 + 13, len(big)} {
				want := string(big[:n/13*13])
				p.send(text(want), frame(2, want[:len(want)/2]), frame(fin, want[len(want)/2:]))
				for range 2 {
					select {
					case got := <-e.messages:
						if got.data != want {
							t.Errorf("%d bytes: another message of %d bytes", len(want), len(got.data))
						}
					case <-time.After(patience):
						t.Fatalf("%d bytes were not received", len(want))
					}
				}
			}
		})
	}
}

// TestHandOver: another endpoint takes the connection on from within Receive, a message that it
// cannot take at once included; the first one hears no more.
func TestHandOver(t *testing.T) {
	for i := range transports {
		t.Run(transports[i].name, func(t *testing.T) {
			waited := false
			second := &endpoint{t: t, messages: make(chan message, 10), closed: make(chan error, 1)}
			second.receive = func(e *endpoint, binary bool, payload []byte) time.Duration {
				if string(payload) == "later" && !waited {
					waited = true
					return time.Millisecond
				}
				e.messages <- message{binary, string(payload)}
				_ = e.conn.Send(payload)
				return 0
			}
			s := start(t, i, ws.Config{}, loop.Config{}, func(u *upgrader) {
				u.receive = func(e *endpoint, binary bool, payload []byte) time.Duration {
					if string(payload) != "later" {
						e.messages <- message{binary, string(payload)}
						return 0
					}
					e.conn.HandOver(second)
					return second.Receive(e.conn, binary, payload)
				}
			})
			p, first := s.open(t)
			p.send(text("a") + text("later") + text("b"))
			for _, want := range []string{"later", "b"} {
				if _, got, err := p.next(); got != want || err != nil {
					t.Fatalf("came back: %q, %v; want %q", got, err, want)
				}
			}
			p.send(closing(1000, ""))
			if err, ok := errors.AsType[*ws.PeerClose](second.ended()); !ok {
				t.Errorf("the second ended with %v", err)
			}
			if len(first.messages) != 1 || len(first.closed) != 0 || len(second.messages) != 2 || !waited {
				t.Errorf("the first had %d messages and %d ends, the second %d messages", len(first.messages), len(first.closed), len(second.messages))
			}
		})
	}
}
