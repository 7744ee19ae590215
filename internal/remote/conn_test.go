package remote

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/mapped"
	"signalbox/internal/remote/mosquittotest"
	"signalbox/internal/wire/packet"
)

// tape is a connection on which everything is said already.
type tape struct {
	io.Reader
	sent bytes.Buffer
}

func (t *tape) Write(p []byte) (int, error)      { return t.sent.Write(p) }
func (*tape) Close() error                       { return nil }
func (*tape) LocalAddr() net.Addr                { return nil }
func (*tape) RemoteAddr() net.Addr               { return nil }
func (*tape) SetDeadline(time.Time) error        { return nil }
func (*tape) SetReadDeadline(time.Time) error    { return nil }
func (*tape) SetWriteDeadline(t time.Time) error { return nil }

func TestPacketTooLong(t *testing.T) {
	for _, tt := range []struct{ name, sent, want string }{
		{"too long", "\x30\xff\xff\xff\x7f", "at most 100"},
		{"malformed", "\x30\xff\xff\xff\xff\x01", "malformed"},
		{"cut in its header", "\x30", "unexpected EOF"},
		{"second one too long", "\xd0\x00\x30\xff\x01", "at most 100"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newConn(&tape{Reader: strings.NewReader(tt.sent)}, 100)
			_, err := io.ReadAll(c)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			<-c.over
			if !errors.Is(c.reason(), err) {
				t.Errorf("reason %v, want %v", c.reason(), err)
			}
		})
	}
}

// TestBehindTheAnswer: what follows the CONNACK waits until the library works, or the connection ends.
func TestBehindTheAnswer(t *testing.T) {
	const answer, rest = "\x20\x02\x00\x00", "\xd0\x00"
	for name, closes := range map[string]bool{"ready": false, "closed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newConn(&tape{Reader: strings.NewReader(answer + rest)}, 100)
				got, err := "", error(nil)
				done := make(chan struct{})
				go func() {
					defer close(done)
					var b []byte
					b, err = io.ReadAll(io.LimitReader(c, int64(len(answer+rest))))
					got = string(b)
				}()
				synctest.Wait()
				select {
				case <-done:
					t.Fatal("it was given out before its time")
				default:
				}
				if closes {
					_ = c.Close()
				} else {
					c.ready()
				}
				<-done
				if closes && (got != answer || !errors.Is(err, net.ErrClosed)) || !closes && (got != answer+rest || err != nil) {
					t.Errorf("read %x, %v", got, err)
				}
			})
		})
	}
}

// TestOnePieceEach: the pieces of a packet leave together, so that they are one segment.
func TestOnePieceEach(t *testing.T) {
	here, there := net.Pipe()
	c := newConn(here, 100)
	read := make(chan string, 1)
	go func() {
		b := make([]byte, 100)
		n, _ := there.Read(b)
		read <- string(b[:n])
	}()
	c.Lock()
	for _, piece := range []string{"a", "b", "c"} {
		if _, err := c.Write([]byte(piece)); err != nil {
			t.Error(err)
		}
	}
	c.Unlock()
	if got := next(t, read); got != "abc" {
		t.Errorf("read %q first", got)
	}
	_ = there.Close()
	c.Lock()
	_, _ = c.Write([]byte("x"))
	c.Unlock()
	<-c.over // what could not be written ends the connection
}

// FuzzConn: what a broker sends comes through unchanged, packet by packet, as long as each is
// within the limit, and ends with an error, not a panic, where one is not.
func FuzzConn(f *testing.F) {
	f.Add([]byte("\x20\x02\x00\x00\x30\x05\x00\x01a--\xd0\x00"))
	f.Add([]byte("\x30\xff\xff\xff\xff\x7f"))
	f.Add([]byte("\x30\xff\xff\xff\x7f"))
	f.Add([]byte("\x30"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		const limit = 64
		c := newConn(&tape{Reader: bytes.NewReader(sent)}, limit)
		c.ready()
		got, err := io.ReadAll(c)
		if !bytes.HasPrefix(sent, got) {
			t.Fatalf("%x came through as %x", sent, got)
		}
		rest := sent
		for len(rest) > 0 {
			// The library looks at types and flags; here only lengths count.
			total, ok, sizeErr := packet.Size(append([]byte{0x30}, rest[min(1, len(rest)):]...))
			if sizeErr != nil || !ok || total > limit {
				break
			}
			if total > len(rest) {
				rest = nil
				break
			}
			rest = rest[total:]
		}
		if err == nil && len(rest) != 0 {
			t.Fatalf("%x: no error, though %x is left", sent, rest)
		}
	})
}

// TestNothingStays: a link that ended leaves no goroutine.
func TestNothingStays(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			before := runtime.NumGoroutine()
			for range 3 {
				cfg := config(b, v)
				cfg.ReceiveMaximum = 1
				l, err := New(cfg, Parts{Taker: &hub{answer: mapped.Later}, Log: &noLog{}})
				if err != nil {
					t.Fatal(err)
				}
				h := &hub{t: t, link: l}
				h.join()
				eventually(t, "joined", func() bool { return l.Status().Connected })
				for range 5 {
					_ = l.Publish("Environ/Temperature", []byte("1"), 0, false)
				}
				l.current().conn.fail(errors.New("cut"))
				eventually(t, "joined again", func() bool { return l.stats.Connects.Load() >= 2 })
				h.leave()
			}
			eventually(t, "as few goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
		})
	}
}
