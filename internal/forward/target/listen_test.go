package target

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

// listening makes a target that listens on a port of the system's choice, and its address.
func listening(t *testing.T, change func(*forward.Spec)) (*listenTarget, string) {
	t.Helper()
	spec := &forward.Spec{Name: "f", To: "tcp-listen://127.0.0.1:0", Timeout: 20 * time.Second}
	if change != nil {
		change(spec)
	}
	target := newTarget(t, spec).(*listenTarget)
	if err := target.listen(within(t)); err != nil {
		t.Fatal(err)
	}
	return target, target.listener.Addr().String()
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(within(t), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

func openListen(t *testing.T, target *listenTarget, told *settlements) *listenSink {
	t.Helper()
	sink, err := target.Open(within(t), told.settled)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink.(*listenSink)
}

// awaitReceivers waits until so many are connected.
func awaitReceivers(t *testing.T, target *listenTarget, n int) {
	t.Helper()
	ctx := within(t)
	for len(target.Receivers()) != n {
		if wait(ctx, time.Millisecond) != nil {
			t.Fatalf("%v are connected; %d were waited for", target.Receivers(), n)
		}
	}
}

func TestListenWaitsForAReceiver(t *testing.T) {
	target, address := listening(t, nil)
	ctx, cancel := context.WithTimeout(within(t), 20*time.Millisecond)
	defer cancel()
	if _, err := target.Open(ctx, settledNothing); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Open gave %v while nobody was there", err)
	}
	told := newSettlements()
	conn := dial(t, address)
	sink := openListen(t, target, told)
	if got := target.Receivers(); len(got) != 1 || got[0] != conn.LocalAddr().String() {
		t.Errorf("the receivers are %v, want %s", got, conn.LocalAddr())
	}
	if err := sink.Send(within(t), messages(1, 1000)); err != nil {
		t.Fatal(err)
	}
	wants(t, conn, messages(1, 1000))
	told.await(t, 1000)
	if err := sink.Flush(within(t)); err != nil {
		t.Error(err)
	}
	conn.Close()
	awaitBroken(t, sink)
	closeSink(t, sink)

	// The next one goes on; the listener is the same.
	conn = dial(t, address)
	sink = openListen(t, target, told)
	if err := sink.Send(within(t), messages(1001, 10)); err != nil {
		t.Fatal(err)
	}
	wants(t, conn, messages(1001, 10))
	told.await(t, 1010)
	closeSink(t, sink)
	if err := target.Close(); err != nil {
		t.Error(err)
	}
	if _, err := target.Open(within(t), settledNothing); err == nil {
		t.Error("a closed target was opened")
	}
}

func TestListenReceiverThatComesBackAtOnce(t *testing.T) {
	target, address := listening(t, nil)
	told := newSettlements()
	conn := dial(t, address)
	sink := openListen(t, target, told)
	conn.Close()
	awaitBroken(t, sink)
	conn = dial(t, address) // before the sink is closed
	awaitReceivers(t, target, 1)
	closeSink(t, sink)
	sink = openListen(t, target, told)
	if err := sink.Send(within(t), messages(1, 10)); err != nil {
		t.Fatal(err)
	}
	wants(t, conn, messages(1, 10))
	closeSink(t, sink)
}

// TestListenReceiverThatComesBackBeforeItLeft has a receiver whose old connection is noticed to be gone
// when the new one is there: what it did not acknowledge is not settled by that.
func TestListenReceiverThatComesBackBeforeItLeft(t *testing.T) {
	target, address := listening(t, func(s *forward.Spec) { s.Ack = true })
	told := newSettlements()
	before := dial(t, address)
	sink := openListen(t, target, told)
	if err := sink.Send(within(t), messages(1, 5)); err != nil {
		t.Fatal(err)
	}
	wants(t, before, messages(1, 5))
	io.WriteString(before, "2\n")
	told.await(t, 2)
	again := dial(t, address)
	awaitReceivers(t, target, 2)
	before.SetLinger(0)
	before.Close()
	awaitBroken(t, sink)
	err := sink.Send(within(t), messages(6, 1))
	if unsent, is := errors.AsType[*forward.Unsent](err); !is || unsent.From != 6 {
		t.Errorf("the broken sink says %v", err)
	}
	closeSink(t, sink)
	if n, err := again.Read(make([]byte, 1)); err == nil || n > 0 {
		t.Errorf("the receiver was sent %d bytes, %v", n, err)
	}
	if got := told.get(); got != 2 {
		t.Errorf("settled up to %d, want 2", got)
	}
	again = dial(t, address)
	sink = openListen(t, target, told)
	if err := sink.Send(within(t), messages(3, 3)); err != nil {
		t.Fatal(err)
	}
	wants(t, again, messages(3, 3))
	io.WriteString(again, "5\n")
	told.await(t, 5)
	closeSink(t, sink)
}

func TestListenSettlesWhatAllHave(t *testing.T) {
	target, address := listening(t, func(s *forward.Spec) { s.Ack = true })
	told := newSettlements()
	first := dial(t, address)
	sink := openListen(t, target, told)
	if err := sink.Send(within(t), messages(1, 10)); err != nil {
		t.Fatal(err)
	}
	wants(t, first, messages(1, 10))
	io.WriteString(first, "4\n")
	told.await(t, 4)

	second := dial(t, address)
	awaitReceivers(t, target, 2)
	if err := sink.Send(within(t), messages(11, 10)); err != nil {
		t.Fatal(err)
	}
	wants(t, first, messages(11, 10))
	wants(t, second, messages(11, 10)) // and nothing of before its time
	io.WriteString(second, "20\n")
	io.WriteString(first, "15\n")
	told.await(t, 15)
	if got := told.get(); got != 15 {
		t.Errorf("settled up to %d, which the first one does not have", got)
	}
	// When the first leaves, the second is all there is.
	first.Close()
	told.await(t, 20)
	awaitReceivers(t, target, 1)
	if err := sink.Flush(within(t)); err != nil {
		t.Error(err)
	}
	// The last one leaves with lines that it did not acknowledge: they are not settled.
	if err := sink.Send(within(t), messages(21, 5)); err != nil {
		t.Fatal(err)
	}
	wants(t, second, messages(21, 5))
	second.Close()
	awaitBroken(t, sink)
	closeSink(t, sink)
	if got := told.get(); got != 20 {
		t.Errorf("settled up to %d, want 20", got)
	}
}

func TestListenCutsAReceiverThatTakesNothing(t *testing.T) {
	target, address := listening(t, nil)
	target.buffer, target.config.timeout = 256<<10, impatience
	told := newSettlements()
	stuck, good := dial(t, address), dial(t, address)
	awaitReceivers(t, target, 2)
	sink := openListen(t, target, told)
	if len(sink.connected()) != 2 {
		t.Fatalf("%d receivers came along", len(sink.connected()))
	}
	stuck.SetReadBuffer(4096)
	batch := messages(1, 10)
	for i := range batch {
		batch[i].Body = make([]byte, 4999)
	}
	for began := time.Now(); len(sink.connected()) == 2 && time.Since(began) < patience; {
		if err := sink.Send(within(t), batch); err != nil {
			t.Fatal(err)
		}
		// The other one always has room for what comes next.
		if n, err := io.CopyN(io.Discard, good, 10*5000); err != nil {
			t.Fatalf("the other receiver got %d bytes of a batch: %v", n, err)
		}
	}
	awaitReceivers(t, target, 1)
	if got := target.Receivers()[0]; got != good.LocalAddr().String() {
		t.Errorf("%s is left, which reads nothing", got)
	}
	if err := sink.Send(within(t), messages(11, 10)); err != nil {
		t.Error(err)
	}
	wants(t, good, messages(11, 10))
	closeSink(t, sink)
}

func TestListenAdmits(t *testing.T) {
	for _, c := range []struct {
		name  string
		allow []netip.Prefix
		want  bool
	}{
		{name: "loopback when nothing is said", want: true},
		{name: "its network is listed", allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, want: true},
		{name: "its network is not listed", allow: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			target, address := listening(t, func(s *forward.Spec) { s.Allow = c.allow })
			conn := dial(t, address)
			if c.want {
				awaitReceivers(t, target, 1)
				return
			}
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				t.Errorf("it was not closed: %v", err)
			}
			if got := target.Receivers(); len(got) != 0 {
				t.Errorf("%v are connected", got)
			}
		})
	}
}

func TestListenServesSoManyAndNoMore(t *testing.T) {
	target, address := listening(t, nil)
	told := newSettlements()
	dial(t, address)
	sink := openListen(t, target, told)
	for range maxReceivers - 1 {
		dial(t, address)
	}
	awaitReceivers(t, target, maxReceivers)
	if _, err := dial(t, address).Read(make([]byte, 1)); err == nil {
		t.Error("one more was let in")
	}
	awaitReceivers(t, target, maxReceivers)
	closeSink(t, sink)
	// Without a sink the newest wait, and no more of them than may be served.
	var conns []*net.TCPConn
	for range maxReceivers + 1 {
		conns = append(conns, dial(t, address))
		ctx := within(t)
		for !strings.Contains(strings.Join(target.Receivers(), " "), conns[len(conns)-1].LocalAddr().String()) {
			if wait(ctx, time.Millisecond) != nil {
				t.Fatal("a receiver is not waiting")
			}
		}
	}
	if n := len(target.Receivers()); n != maxReceivers {
		t.Errorf("%d wait", n)
	}
	if _, err := conns[0].Read(make([]byte, 1)); err == nil {
		t.Error("the oldest still waits")
	}
}

func TestListenCloseSettlesWhatReceiversHaveRead(t *testing.T) {
	target, address := listening(t, nil)
	target.config.settleAfter, target.config.closeWait = time.Hour, patience
	told := newSettlements()
	conn := dial(t, address)
	sink := openListen(t, target, told)
	go func() {
		io.Copy(io.Discard, conn)
		conn.Close()
	}()
	if err := sink.Send(within(t), messages(1, 5000)); err != nil {
		t.Fatal(err)
	}
	closeSink(t, sink)
	if got := told.get(); got != 5000 {
		t.Errorf("settled up to %d of 5000", got)
	}
}

func TestListenPortInUse(t *testing.T) {
	there := serve(t)
	target := newTarget(t, &forward.Spec{Name: "f", To: "tcp-listen://" + there.Addr().String()})
	if _, err := target.Open(within(t), settledNothing); err == nil || !strings.Contains(err.Error(), there.Addr().String()) {
		t.Errorf("Open gave %v", err)
	}
}

// TestTale tells once of what happens a thousand times.
func TestTale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var left tale
		told, times := 0, 0
		for range 1000 {
			if n, tell := left.happens(); tell {
				told, times = told+1, times+n
			}
		}
		if told != 1 || times != 1 {
			t.Errorf("it was told %d times, of %d", told, times)
		}
		time.Sleep(10 * time.Second)
		if n, tell := left.happens(); !tell || n != 1000 {
			t.Errorf("afterwards it was told (%v) of %d", tell, n)
		}
	})
}

func TestListenOnANameThatIsNotLoopback(t *testing.T) {
	target := newTarget(t, &forward.Spec{Name: "f", To: "tcp-listen://127.0.0.1:0"}).(*listenTarget)
	target.address = "0.0.0.0:0" // as a name may lead there
	if _, err := target.Open(within(t), settledNothing); !errors.Is(err, forward.ErrTarget) || signalbox.KindOf(err) != signalbox.KindInvalid {
		t.Errorf("Open gave %v", err)
	}
}

func BenchmarkListen(b *testing.B) {
	target, err := New(&forward.Spec{Name: "f", To: "tcp-listen://127.0.0.1:0"}, true, nil, "/signalbox/test", quiet())
	if err != nil {
		b.Fatal(err)
	}
	defer target.Close()
	listening := target.(*listenTarget)
	if err := listening.listen(b.Context()); err != nil {
		b.Fatal(err)
	}
	for range 2 {
		conn, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", listening.listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			io.Copy(io.Discard, conn)
			conn.Close()
		}()
	}
	benchmarkTarget(b, target)
}
