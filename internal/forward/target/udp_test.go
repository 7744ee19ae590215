package target

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

func serveUDP(t testing.TB, address string) *net.UDPConn {
	t.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.UDPConn)
}

func TestUDPSendsADatagramAMessage(t *testing.T) {
	there, told := serveUDP(t, "127.0.0.1:0"), newSettlements()
	target := newTarget(t, &forward.Spec{Name: "f", To: "udp://" + there.LocalAddr().String()})
	sink, err := target.Open(within(t), told.settled)
	if err != nil {
		t.Fatal(err)
	}
	list := messages(1, 5)
	list[1].Body = make([]byte, maxDatagram+1) // fits into nothing
	list[3].Body = []byte(strings.Repeat("x", 60_000))
	if err := sink.Send(within(t), list); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1<<16)
	for _, i := range []int{0, 2, 3, 4} {
		n, err := there.Read(got)
		if err != nil || string(got[:n]) != string(list[i].Body) {
			t.Errorf("datagram %d has %d bytes, %v", i, n, err)
		}
	}
	if err := sink.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	told.await(t, 5)
	if n := target.(interface{ Failed() int64 }).Failed(); n != 1 {
		t.Errorf("%d messages failed, want 1", n)
	}
	closeSink(t, sink)
}

func TestUDPNobodyListens(t *testing.T) {
	there, told := serveUDP(t, "127.0.0.1:0"), newSettlements()
	// A socket that is connected elsewhere takes nothing, and keeps the port from others.
	elsewhere, err := (&net.Dialer{}).DialContext(within(t), "udp", there.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	target := newTarget(t, &forward.Spec{Name: "f", To: "udp://" + elsewhere.LocalAddr().String()}).(*udpTarget)
	target.settles = time.Hour
	sink, err := target.Open(within(t), told.settled)
	if err != nil {
		t.Fatal(err)
	}
	sink.Send(within(t), messages(1, 3)) // the answer may come while it sends, or afterwards
	if err := awaitBroken(t, sink); !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("it says %v", err)
	}
	err = sink.Send(within(t), messages(4, 1))
	if unsent, is := errors.AsType[*forward.Unsent](err); !is || unsent.From != 4 {
		t.Errorf("a broken sink says %v, and that %+v cannot have left", err, unsent)
	}
	closeSink(t, sink)
	if told.get() != 0 {
		t.Errorf("settled up to %d, though nobody listens", told.get())
	}
}

func TestUDPDropsWhatComesBack(t *testing.T) {
	there, told := serveUDP(t, "127.0.0.1:0"), newSettlements()
	sink := open(t, &forward.Spec{Name: "f", To: "udp://" + there.LocalAddr().String()}, told)
	if err := sink.Send(within(t), messages(1, 1)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	_, from, err := there.ReadFrom(got)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		there.WriteTo(make([]byte, 1000), from)
	}
	told.await(t, 1)
	if err := sink.Err(); err != nil {
		t.Error(err)
	}
	closeSink(t, sink)
}

func BenchmarkUDP(b *testing.B) {
	there := serveUDP(b, "127.0.0.1:0")
	there.SetDeadline(time.Time{})
	go func() {
		got := make([]byte, 2048)
		for {
			if _, err := there.Read(got); err != nil {
				return
			}
		}
	}()
	benchmark(b, &forward.Spec{Name: "f", To: "udp://" + there.LocalAddr().String()})
}

var _ interface{ Failed() int64 } = (*udpTarget)(nil)

// settledNothing is for those who do not ask.
func settledNothing(signalbox.Position) {}
