package target

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

func tcpSpec(s *server) *forward.Spec {
	return &forward.Spec{Name: "f", To: "tcp://" + s.Addr().String(), Timeout: 20 * time.Second}
}

func TestTCPSettlesWhatArrived(t *testing.T) {
	there, told := serve(t), newSettlements()
	sink := open(t, tcpSpec(there), told)
	conn := there.next()
	for first := 1; first <= 5000; first += 500 {
		if err := sink.Send(within(t), messages(first, 500)); err != nil {
			t.Fatal(err)
		}
	}
	wants(t, conn, messages(1, 5000))
	if err := sink.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	told.await(t, 5000)
	closeSink(t, sink)
}

func TestTCPCloseSettlesWhatTheReceiverHasRead(t *testing.T) {
	for _, c := range []struct {
		name string
		read bool
		want signalbox.Position
	}{
		{name: "the receiver reads all and closes too", read: true, want: 10},
		{name: "the receiver closes with lines unread", want: 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			there, told := serve(t), newSettlements()
			target := newTarget(t, tcpSpec(there)).(*tcpTarget)
			target.config.settleAfter, target.config.closeWait = time.Hour, patience
			sink, err := target.Open(within(t), told.settled)
			if err != nil {
				t.Fatal(err)
			}
			conn := there.next()
			if err := sink.Send(within(t), messages(1, 10)); err != nil {
				t.Fatal(err)
			}
			if c.read {
				go func() { // as any program does which reads until the end
					io.Copy(io.Discard, conn)
					conn.Close()
				}()
			} else {
				wants(t, conn, messages(1, 1))
				conn.Close() // with a reset, as lines are unread
				awaitBroken(t, sink)
			}
			closeSink(t, sink)
			if got := told.get(); got != c.want {
				t.Errorf("settled up to %d, want %d", got, c.want)
			}
		})
	}
}

func TestTCPNoticesTheEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*net.TCPConn)
		want string
	}{
		{"reset", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, "reset"},
		{"closed", func(c *net.TCPConn) { c.Close() }, "closed the connection"},
		{"closed half", func(c *net.TCPConn) { c.CloseWrite() }, "closed the connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			there, told := serve(t), newSettlements()
			sink := open(t, tcpSpec(there), told)
			conn := there.next()
			c.end(conn)
			if err := awaitBroken(t, sink); !strings.Contains(err.Error(), c.want) {
				t.Errorf("it says %q, want %q", err, c.want)
			}
			err := sink.Send(within(t), messages(1, 1))
			if unsent, is := errors.AsType[*forward.Unsent](err); !is || unsent.From != 1 {
				t.Errorf("a broken sink says %v, and that %+v cannot have left", err, unsent)
			}
			closeSink(t, sink)
			if got := told.get(); got != 0 {
				t.Errorf("settled up to %d, though nothing was sent", got)
			}
		})
	}
}

func TestTCPReceiverThatNeverReads(t *testing.T) {
	there, told := serve(t), newSettlements()
	sink := openOf(t, hasty(t, tcpSpec(there)), told)
	there.next() // and no more
	batch := messages(1, 1000)
	for i := range batch {
		batch[i].Body = make([]byte, 1000)
	}
	var err error
	for began := time.Now(); err == nil && time.Since(began) < patience; {
		err = sink.Send(within(t), batch)
	}
	if !errors.Is(err, errTakesNothing) {
		t.Fatalf("Send gave %v, want that the receiver takes nothing", err)
	}
	closeSink(t, sink)
}

// A receiver that stands still is given up even when nothing more is sent to it.
func TestTCPReceiverThatStandsStillWhileNothingIsSent(t *testing.T) {
	there, told := serve(t), newSettlements()
	sink := openOf(t, hasty(t, tcpSpec(there)), told)
	there.next() // and no more
	list := messages(1, 200)
	for i := range list {
		list[i].Body = make([]byte, 50_000)
	}
	raw := sink.(*tcpSink).raw
	ctx := within(t)
	for i := 0; i < len(list) && sink.Err() == nil; i++ {
		if err := sink.Send(ctx, list[i:i+1]); errors.Is(err, errTakesNothing) {
			t.Logf("message %d did not fit into this side's buffer", i)
		} else if err != nil {
			t.Fatal(err)
		}
		for sink.Err() == nil { // the next one is sent when the other side has all
			if waiting, err := unacknowledged(raw); waiting == 0 && err == nil {
				break
			}
			if wait(ctx, time.Millisecond) != nil {
				t.Fatal("the sink does not notice that its receiver stands still")
			}
		}
	}
	if err := awaitBroken(t, sink); !errors.Is(err, errTakesNothing) {
		t.Errorf("it says %v, want that the receiver takes nothing", err)
	}
	closeSink(t, sink)
}

func TestTCPSlowReceiverIsWaitedFor(t *testing.T) {
	there, told := serve(t), newSettlements()
	sink := open(t, tcpSpec(there), told)
	conn := there.next()
	conn.SetReadBuffer(16 << 10)
	list := messages(1, 200)
	for i := range list {
		list[i].Body = []byte(strings.Repeat(fmt.Sprint(i%10), 50_000))
	}
	read := make(chan int, 1)
	go func() {
		total, piece := 0, make([]byte, 50_000)
		for total < 200*50_001 {
			n, err := conn.Read(piece)
			total += n
			if err != nil {
				break
			}
			time.Sleep(50 * time.Microsecond) // it is slow: this is what is tested, not waited for
		}
		read <- total
	}()
	if err := sink.Send(within(t), list); err != nil {
		t.Fatal(err)
	}
	if err := sink.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	if n := <-read; n != 200*50_001 {
		t.Errorf("the receiver got %d bytes, want %d", n, 200*50_001)
	}
}

func TestTCPSendEndsWithItsContext(t *testing.T) {
	there, told := serve(t), newSettlements()
	sink := open(t, tcpSpec(there), told)
	there.next()
	ctx, cancel := context.WithTimeout(within(t), 20*time.Millisecond)
	defer cancel()
	err := sink.Send(ctx, []forward.Message{{Position: 1, Body: make([]byte, 64<<20)}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Send gave %v", err)
	}
	closeSink(t, sink)
}

func TestTCPAcknowledgements(t *testing.T) {
	there, told := serve(t), newSettlements()
	spec := tcpSpec(there)
	spec.Ack = true
	sink := open(t, spec, told)
	conn := there.next()
	list := messages(101, 20)
	for i := range 10 {
		list[i].Cursor = strings.Replace(list[i].Cursor, "abcdefgh", "olderrun", 1)
	}
	if err := sink.Send(within(t), list); err != nil {
		t.Fatal(err)
	}
	wants(t, conn, list)
	for _, step := range []struct {
		line string
		want signalbox.Position
	}{
		{"olderrun-103\n", 103},
		{"104\r\n", 104},
		{"99\n102\nolderrun-103\n\n105\n", 105}, // what is old says nothing new
		{"abcdefgh-115\n", 115},
		{"116\n118\n", 118},
	} {
		io.WriteString(conn, step.line)
		told.await(t, step.want)
	}
	ctx, cancel := context.WithTimeout(within(t), 10*time.Millisecond)
	defer cancel()
	if err := sink.Flush(ctx); err == nil {
		t.Error("Flush did not wait for the last acknowledgement")
	}
	io.WriteString(conn, "120\n")
	if err := sink.Flush(within(t)); err != nil {
		t.Error(err)
	}
	closeSink(t, sink)
	if told.get() != 120 {
		t.Errorf("settled up to %d, want 120", told.get())
	}
}

// A replay's lines have cursors of their own, and the position of what was sent before them.
func TestTCPAcknowledgementsOfAReplay(t *testing.T) {
	there, told := serve(t), newSettlements()
	spec := tcpSpec(there)
	spec.Ack = true
	sink := open(t, spec, told)
	conn := there.next()
	list := messages(101, 4)
	for i := 2; i < 4; i++ {
		list[i].Position, list[i].Replay = 102, "r1"
	}
	list[3].Cursor = "olderrun-3"
	if err := sink.Send(within(t), list); err != nil {
		t.Fatal(err)
	}
	wants(t, conn, list)
	io.WriteString(conn, "abcdefgh-103\nolderrun-3\nolderrun-102\n900\nabcdefgh-101\nabcdefgh-102\n")
	told.await(t, 102)
	if err := sink.Err(); err != nil {
		t.Error(err)
	}
	closeSink(t, sink)
}

func TestTCPRefusesGarbageForAcknowledgements(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"words", "hello\n", `"hello"`},
		{"never sent", "500\n", "not sent"},
		{"another log's", "zzzzzzzz-5\n", "no cursor of what was sent"},
		{"negative", "-5\n", "acknowledges nothing"},
		{"nought", "0\n", "acknowledges nothing"},
		{"signed", "abcdefgh-+5\n", "acknowledges nothing"},
		{"too large", "99999999999999999999999\n", "acknowledges nothing"},
		{"binary", "\x00\xff\n", "acknowledges nothing"},
		{"a line without end", strings.Repeat("1", 10_000), "at most 128 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			there, told := serve(t), newSettlements()
			spec := tcpSpec(there)
			spec.Ack = true
			sink := open(t, spec, told)
			conn := there.next()
			if err := sink.Send(within(t), messages(1, 10)); err != nil {
				t.Fatal(err)
			}
			wants(t, conn, messages(1, 10))
			io.WriteString(conn, c.line)
			if err := awaitBroken(t, sink); !strings.Contains(err.Error(), c.want) || len(err.Error()) > 400 {
				t.Errorf("it says %q, want %q", err, c.want)
			}
			closeSink(t, sink)
			if told.get() != 0 {
				t.Errorf("settled up to %d by %q", told.get(), c.line)
			}
		})
	}
}

// Without acknowledgements what a receiver sends is nobody's business, however much it is.
func TestTCPDropsWhatNobodyAskedFor(t *testing.T) {
	there, told := serve(t), newSettlements()
	sink := open(t, tcpSpec(there), told)
	conn := there.next()
	if _, err := conn.Write(make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	if err := sink.Send(within(t), messages(1, 3)); err != nil {
		t.Fatal(err)
	}
	wants(t, conn, messages(1, 3))
	told.await(t, 3)
	closeSink(t, sink)
}

func TestTCPNobodyThere(t *testing.T) {
	spec := &forward.Spec{Name: "f", To: "tcp://" + nobody(t)}
	_, err := newTarget(t, spec).Open(within(t), func(signalbox.Position) {})
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Open gave %v", err)
	}
}

func FuzzParseAck(f *testing.F) {
	for _, line := range []string{"5", "abcdefgh-17", "a-b-3", "-", "", "18446744073709551615", "0x5", "5-", "\xff-1"} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		epoch, position, err := parseAck(line)
		if err != nil {
			if len(err.Error()) > 500 {
				t.Errorf("the error for %q is long: %d bytes", line, len(err.Error()))
			}
			return
		}
		want := fmt.Sprint(uint64(position))
		if epoch != "" {
			want = epoch + "-" + want
		}
		if got := string(line); position == 0 || strings.TrimLeft(got[strings.LastIndexByte(got, '-')+1:], "0") != want[strings.LastIndexByte(want, '-')+1:] {
			t.Errorf("%q was read as %q, %d", line, epoch, position)
		}
	})
}

func BenchmarkTCP(b *testing.B) {
	l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(io.Discard, bufio.NewReader(conn))
		conn.Close()
	}()
	benchmark(b, &forward.Spec{Name: "f", To: "tcp://" + l.Addr().String()})
}

// benchmark sends messages of 200 bytes, 256 at a time.
func benchmark(b *testing.B, spec *forward.Spec) {
	b.Helper()
	target, err := New(spec, true, nil, "/signalbox/test", quiet())
	if err != nil {
		b.Fatal(err)
	}
	defer target.Close()
	benchmarkTarget(b, target)
}

func benchmarkTarget(b *testing.B, target forward.Target) {
	b.Helper()
	sink, err := target.Open(b.Context(), func(signalbox.Position) {})
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	batch := messages(1, 256)
	for i := range batch {
		batch[i].Body = []byte(strings.Repeat("x", 200))
	}
	b.ReportAllocs()
	b.ResetTimer()
	sent := 0
	for position := 1; sent < b.N; position += len(batch) {
		n := min(len(batch), b.N-sent)
		for i := range n {
			batch[i].Position = signalbox.Position(position + i)
		}
		if err := sink.Send(b.Context(), batch[:n]); err != nil {
			b.Fatal(err)
		}
		sent += n
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
