package ws

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unicode/utf8"
	"unsafe"

	"signalbox/internal/gateway/loop"
)

// recorder is an endpoint and the link under its connection; it writes down what it gets.
type recorder struct {
	received []string
	sent     []byte
	ended    error
	refuse   int // this many of the next messages are made to wait
}

func (r *recorder) Upgrade(*Request) (Endpoint, *Refusal) { return r, nil }
func (r *recorder) Opened(*Conn)                          {}
func (r *recorder) Tick(*Conn, time.Time)                 {}
func (r *recorder) Closed(*Conn, error)                   {}

func (r *recorder) Receive(_ *Conn, isBinary bool, payload []byte) time.Duration {
	if r.refuse > 0 {
		r.refuse--
		return time.Second
	}
	if !isBinary && !utf8.Valid(payload) {
		r.received = append(r.received, "invalid UTF-8")
	}
	r.received = append(r.received, fmt.Sprint(isBinary, " ", string(payload)))
	return 0
}

func (r *recorder) Write(b []byte) error   { r.sent = append(r.sent, b...); return nil }
func (r *recorder) Queued() int            { return 0 }
func (r *recorder) Remote() netip.AddrPort { return netip.AddrPort{} }
func (r *recorder) Abort(reason error)     { r.ended = reason }

func (r *recorder) Close(final []byte, reason error) {
	r.sent, r.ended = append(r.sent, final...), reason
}

// result is what came of some bytes.
func (r *recorder) result() string {
	return fmt.Sprintf("received %q, sent %q, ended %v", r.received, r.sent, r.ended)
}

// feed gives b to a new connection in pieces that end at the given positions, and keeps what it leaves, as a loop does.
func feed(r *recorder, upgraded bool, b []byte, cuts ...int) {
	server := NewServer(Config{MessageBytes: 300, HeadBytes: 1000}, r)
	s := &stream{Conn{conn: r, server: server, limit: 300}}
	if upgraded {
		s.endpoint = r
	}
	slices.Sort(cuts)
	var kept []byte
	from := 0
	for _, to := range append(cuts, len(b)) {
		if to = min(to, len(b)); to <= from {
			continue
		}
		kept = append(kept, b[from:to]...)
		from = to
		for r.ended == nil {
			n, wait := s.Data(kept)
			kept = kept[n:]
			if wait == 0 {
				break
			}
		}
	}
}

func testFrame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	default:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	b = append(b, 1, 2, 3, 4)
	for i := range len(payload) {
		b = append(b, payload[i]^byte(1+i%4))
	}
	return b
}

const testRequest = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

// FuzzFrames checks that arbitrary bytes after the upgrade have the same effect however they are cut and however often
// messages are made to wait, and that no text is handed over that is not UTF-8.
func FuzzFrames(f *testing.F) {
	text := testFrame(0x81, "работает")
	for _, seed := range [][]byte{
		text, slices.Concat(text, text), testFrame(0x82, "\xff"), testFrame(0x89, "ping"), testFrame(0x8a, "pong"),
		testFrame(0x88, "\x03\xe8bye"), testFrame(0x88, "\x03"), testFrame(0x88, "\x03\xe8\xff"), testFrame(0x88, ""),
		slices.Concat(testFrame(1, "\xd1"), testFrame(0x80, "\x80")),
		slices.Concat(testFrame(1, "\xf0\x9f"), testFrame(0, "\x9a"), testFrame(0x89, ""), testFrame(0x80, "\xa6")),
		slices.Concat(testFrame(2, "a"), testFrame(0x89, "p"), testFrame(0x80, "b")),
		testFrame(0x81, string(bytes.Repeat([]byte("x"), 300))), testFrame(0x81, string(bytes.Repeat([]byte("x"), 301))),
		{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		{0x81, 0x01, 'x'},
		testFrame(0xc1, ""), testFrame(0x83, ""),
		{0x81, 0xfe, 0, 1},
		{0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 1},
		testFrame(0x80, "x"), slices.Concat(testFrame(1, "x"), text),
	} {
		f.Add(seed, uint16(1), uint16(3), uint8(2))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut1, cut2 uint16, refuse uint8) {
		whole, cut := &recorder{}, &recorder{refuse: int(refuse)}
		feed(whole, true, b)
		feed(cut, true, b, int(cut1), int(cut2))
		if whole.result() != cut.result() {
			t.Errorf("cut at %d and %d: %s; whole: %s", cut1, cut2, cut.result(), whole.result())
		}
		if slices.Contains(whole.received, "invalid UTF-8") {
			t.Error(whole.result())
		}
	})
}

// FuzzHandshake checks that arbitrary bytes before the upgrade have the same effect however they are cut.
func FuzzHandshake(f *testing.F) {
	for _, seed := range []string{
		testRequest, testRequest + string(testFrame(0x81, "x")), "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "\r\n\r\n", "A\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", "GET  HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
	} {
		f.Add([]byte(seed), uint16(1), uint16(30))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut1, cut2 uint16) {
		whole, cut := &recorder{}, &recorder{}
		feed(whole, false, b)
		feed(cut, false, b, int(cut1), int(cut2))
		if whole.result() != cut.result() {
			t.Errorf("cut at %d and %d: %s; whole: %s", cut1, cut2, cut.result(), whole.result())
		}
	})
}

// TestCuts cuts a stream of every kind of frame at every place.
func TestCuts(t *testing.T) {
	b := slices.Concat([]byte(testRequest), testFrame(0x81, "текст"), testFrame(1, "\xf0\x9f"), testFrame(0x89, "p"), testFrame(0, "\x9a"),
		testFrame(0x80, "\xa6"), testFrame(0x82, string(bytes.Repeat([]byte{255}, 200))), testFrame(0x81, ""), testFrame(0x88, "\x03\xe8bye"))
	whole := &recorder{}
	feed(whole, false, b)
	if len(whole.received) != 4 || whole.ended == nil {
		t.Fatal(whole.result())
	}
	for i := range b {
		for _, refuse := range []int{0, 1, 3} {
			cut := &recorder{refuse: refuse}
			feed(cut, false, b, i, i+1+i%7)
			if cut.result() != whole.result() {
				t.Fatalf("cut at %d: %s, whole: %s", i, cut.result(), whole.result())
			}
		}
	}
}

// TestUnmask compares the library's cipher with the definition (RFC 6455 section 5.3) for lengths and alignments around
// its block sizes.
func TestUnmask(t *testing.T) {
	room := make([]byte, 5000)
	for align := range 17 {
		for n := range 4500 {
			b := room[align : align+4+n]
			binary.LittleEndian.PutUint32(b, rand.Uint32())
			want := make([]byte, n)
			for i := range want {
				b[4+i] = byte(i * 7)
				want[i] = byte(i*7) ^ b[i%4]
			}
			if got := unmask(b); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes at alignment %d: wrong at %d", n, align, firstDifference(got, want))
			}
			if got := unmask(b); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: unmasking again changes them", n)
			}
		}
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func TestUTF8Prefix(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int
	}{{"", 0}, {"a", 1}, {"aя", 3}, {"a\xd1", 1}, {"a\xf0\x9f\x9a", 1}, {"\xf0\x9f\x9a\xa6", 4}, {"a\xff", 0}, {"a\x80", 0}, {"\x80\x80\x80\x80", 0}, {"a\xed\xa0", 0}} {
		if got := utf8Prefix([]byte(c.in)); got != c.want {
			t.Errorf("utf8Prefix(%q) = %d, want %d", c.in, got, c.want)
		}
	}
}

// TestIdleSize bounds what an idle upgraded connection holds: its two structs and its places in the loop's tables.
func TestIdleSize(t *testing.T) {
	size := unsafe.Sizeof(loop.Conn{}) + unsafe.Sizeof(stream{}) + 16
	t.Logf("%d + %d + 16 bytes", unsafe.Sizeof(loop.Conn{}), unsafe.Sizeof(stream{}))
	if size > 320 {
		t.Errorf("an idle connection holds %d bytes, want at most 320", size)
	}
}

// sink takes messages and does nothing.
type sink struct{ recorder }

func (*sink) Receive(*Conn, bool, []byte) time.Duration { return 0 }

// BenchmarkReceive takes frames through Data, 64 KiB at a time and one at a time.
func BenchmarkReceive(b *testing.B) {
	const payload = `{"type":"telemetry","status":"работает","servo1":90,"servo2":90,"button1":"released"}`
	one := testFrame(0x81, payload)
	for _, batch := range []int{1, 64 << 10 / len(one)} {
		b.Run(fmt.Sprint(batch, "-frames"), func(b *testing.B) {
			input := bytes.Repeat(one, batch)
			buf := make([]byte, len(input))
			r := &sink{}
			s := &stream{Conn{conn: r, server: NewServer(Config{}, r), limit: 1 << 20, endpoint: r}}
			b.ReportAllocs()
			b.SetBytes(int64(len(one)))
			for n := 0; n < b.N; n += batch {
				copy(buf, input)
				if n, _ := s.Data(buf); n != len(buf) {
					b.Fatal("not all was consumed")
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
		})
	}
}

func BenchmarkHandshake(b *testing.B) {
	r := &sink{}
	server := NewServer(Config{}, r)
	b.ReportAllocs()
	for b.Loop() {
		s := &stream{Conn{conn: &recorder{}, server: server, limit: 1 << 20}}
		if s.Data([]byte(testRequest)); s.endpoint == nil {
			b.Fatal("no upgrade")
		}
	}
}
