package broker

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signalbox/internal/broker/durable"
	"signalbox/internal/wire/packet"
)

func TestIndexAgreesWithMatch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	word := func(words ...string) string { return words[rnd.IntN(len(words))] }
	filterOf := func() string {
		var levels []string
		for range 1 + rnd.IntN(4) {
			levels = append(levels, word("a", "b", "c", "", "$x", "+"))
		}
		if rnd.IntN(3) == 0 {
			levels = append(levels, "#")
		}
		return strings.Join(levels, "/")
	}
	b, err := New(Config{}, Parts{})
	if err != nil {
		t.Fatal(err)
	}
	clients := make([]*client, 20)
	have := map[string]*subscription{}
	for i := range clients {
		clients[i] = &client{b: b, serial: uint32(i), conn: &Session{}}
	}
	for range 5000 {
		i := rnd.IntN(len(clients))
		f := filterOf()
		if packet.CheckFilter(f) != nil {
			continue
		}
		key := fmt.Sprint(i, " ", f)
		if sub := have[key]; sub != nil {
			b.index.remove(sub)
			delete(have, key)
		} else {
			have[key] = &subscription{c: clients[i], filter: f, options: options{qos: uint8(rnd.IntN(3))}}
			b.index.insert(have[key])
		}
		var levels []string
		for range 1 + rnd.IntN(5) {
			levels = append(levels, word("a", "b", "c", "", "$x"))
		}
		topic := strings.Join(levels, "/")
		want := map[*client]uint8{}
		for _, sub := range have {
			if packet.Match(sub.filter, topic) {
				want[sub.c] = max(want[sub.c], sub.qos)
			}
		}
		if f := filterOf(); packet.CheckFilter(f) == nil && !strings.Contains(f, "#") && packet.Match(f, topic) && len(want) > 0 && !b.Interested(f) {
			t.Fatalf("somebody gets %q, but nobody is interested in %q", topic, f)
		}
		var r found
		b.index.match(&r, topic, 0)
		got := map[*client]uint8{}
		for _, h := range r.hits {
			if _, twice := got[h.c]; twice {
				t.Fatalf("topic %q: a session is there twice", topic)
			}
			got[h.c] = h.qos
		}
		if len(got) != len(want) {
			t.Fatalf("topic %q: %d sessions, want %d", topic, len(got), len(want))
		}
		for c, qos := range want {
			if q, ok := got[c]; !ok || q != qos {
				t.Fatalf("topic %q: QoS %d, want %d", topic, q, qos)
			}
		}
	}
	for _, sub := range have {
		b.index.remove(sub)
	}
	if b.index.root.kids != nil {
		t.Error("nodes without subscriptions are left")
	}
}

func TestFrameIsWhatThePacketSays(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var p packet.Properties
		if rnd.IntN(2) == 0 {
			p.Set(packet.ContentType)
			p.ContentType = []byte("text/plain")
		}
		if rnd.IntN(2) == 0 {
			p.Set(packet.CorrelationData)
			p.CorrelationData = make([]byte, rnd.IntN(300))
		}
		f := frame{
			topic: strings.Repeat("t", 1+rnd.IntN(200)), payload: make([]byte, rnd.IntN(1<<uint(rnd.IntN(16)))), properties: packet.AppendForwarded(nil, &p),
			qos: uint8(rnd.IntN(3)), retain: rnd.IntN(2) == 0, hasExpiry: rnd.IntN(2) == 0, expiry: rnd.Uint32(),
		}
		if f.qos > 0 {
			f.id, f.dup = uint16(1+rnd.IntN(65535)), rnd.IntN(2) == 0
		}
		if rnd.IntN(2) == 0 {
			f.ids(uint32(1+rnd.IntN(1<<28-1)), []uint32{uint32(1 + rnd.IntN(127))})
		}
		for _, v := range []packet.Version{packet.V311, packet.V5} {
			b := f.append(nil, v)
			if len(b) != f.size(v) {
				t.Fatalf("%d bytes, size says %d", len(b), f.size(v))
			}
			var got packet.Packet
			if err := got.Decode(b, v); err != nil {
				t.Fatal(err)
			}
			if string(got.Topic) != f.topic || !slices.Equal(got.Payload, f.payload) || got.QoS != f.qos || got.Dup != f.dup || got.Retain != f.retain || got.ID != f.id && f.qos > 0 {
				t.Fatalf("got %+v of %+v", got, f)
			}
			if v == packet.V5 && (got.Properties.Has(packet.MessageExpiry) != f.hasExpiry || f.hasExpiry && got.Properties.MessageExpiry != f.expiry ||
				got.Properties.SubscriptionID != f.first || len(got.Properties.MoreSubscriptionIDs) != len(f.more) ||
				!slices.Equal(packet.AppendForwarded(nil, &got.Properties), f.properties)) {
				t.Fatalf("got %+v of %+v", got.Properties, f)
			}
		}
	}
}

func TestIDSet(t *testing.T) {
	var s idSet
	for round := range 3 {
		for i := range 1000 {
			s.add(uint16(i*60 + 1))
		}
		for i := range 1000 {
			if !s.has(uint16(i*60+1)) || s.has(uint16(i*60+2)) {
				t.Fatalf("round %d: %d", round, i)
			}
		}
		for i := range 1000 {
			s.remove(uint16(i*60 + 1))
		}
		if s.has(1) {
			t.Fatal("what was removed is there")
		}
	}
}

func TestPacketIDsDoNotMeet(t *testing.T) {
	o := &outbound{head: idQueue - 3, cursor: idQueue + 5, next: idQueue + 5}
	for n := o.head; n < o.next; n++ {
		o.push(item{state: stateSent})
	}
	for n := o.head; n < o.next; n++ {
		id := packetID(n)
		if id == 0 || id > idQueue {
			t.Errorf("identifier %d of %d", id, n)
		}
		if got, ok := o.find(id); !ok || got != n {
			t.Errorf("identifier %d leads to %d, want %d", id, got, n)
		}
	}
	for _, id := range []uint16{0, idQueue + 1, 65535, packetID(o.head - 1), packetID(o.next)} {
		if n, ok := o.find(id); ok {
			t.Errorf("identifier %d leads to %d", id, n)
		}
	}
}

// deaf is a connection that takes everything.
type deaf struct{}

func (deaf) Write([]byte) error        { return nil }
func (deaf) Queued() int               { return 0 }
func (deaf) End(packet.Reason, string) {}

func connectMany(tb testing.TB, b *Broker, n int, subscribe bool) []*Session {
	tb.Helper()
	list := make([]*Session, n)
	for i := range list {
		name := fmt.Sprintf("device%05d", i)
		h := Hello{Peer: deaf{}, Owner: fmt.Sprintf("d%d", i), ClientID: name, Single: true, Connect: &packet.Connect{Version: packet.V311, Clean: true}, Properties: &packet.Properties{}}
		s, o := b.Connect(&h)
		if s == nil {
			tb.Fatal(o)
		}
		list[i] = s
		if subscribe {
			s.Subscribe(&packet.Packet{ID: 1, Filters: []packet.Filter{{Text: []byte("signalbox/" + name + "/command"), QoS: 1}}}, nil)
		}
	}
	return list
}

func TestMemoryOfIdleSessions(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const many = 18_000
	for _, tc := range []struct {
		subscribe bool
		most      int64
	}{{false, 260}, {true, 260 + 600}} {
		b, err := New(Config{}, Parts{})
		if err != nil {
			t.Fatal(err)
		}
		before := heap()
		list := connectMany(t, b, many, tc.subscribe)
		b.acks.queue = nil // nobody runs
		each := (heap() - before) / many
		runtime.KeepAlive(list)
		runtime.KeepAlive(b)
		t.Logf("%d bytes each, subscribed %v", each, tc.subscribe)
		if each > tc.most {
			t.Errorf("an idle session takes %d bytes (subscribed %v), at most %d are allowed", each, tc.subscribe, tc.most)
		}
	}
}

func BenchmarkPublishToNobody(b *testing.B) {
	br, err := New(Config{}, Parts{})
	if err != nil {
		b.Fatal(err)
	}
	list := connectMany(b, br, 18_000, true)
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		s := list[n.Add(1)]
		p := packet.Packet{Type: packet.PUBLISH, Topic: []byte("signalbox/device00017/telemetry"), Payload: make([]byte, 200)}
		for pb.Next() {
			s.Publish(&p)
		}
	})
}

func BenchmarkPublishAcknowledged(b *testing.B) {
	br, err := New(Config{}, Parts{})
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = br.Run(b.Context()) }()
	list := connectMany(b, br, 1000, true)
	p := packet.Packet{Type: packet.PUBLISH, Topic: []byte("signalbox/device00017/telemetry"), Payload: make([]byte, 200), QoS: 1}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.ID = uint16(i/1000%60000 + 1)
		for list[i%1000].Publish(&p).Wait > 0 {
			runtime.Gosched()
		}
	}
}

// BenchmarkDeliver sends from one publisher to a subscriber that acknowledges at once.
func BenchmarkDeliver(b *testing.B) {
	for _, qos := range []uint8{0, 1} {
		b.Run(fmt.Sprintf("qos=%d", qos), func(b *testing.B) {
			br, err := New(Config{}, Parts{})
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = br.Run(b.Context()) }()
			from := connectMany(b, br, 1, false)[0]
			sink := &echo{done: make(chan []byte, 1024)}
			h := Hello{Peer: sink, Owner: "x", ClientID: "x", Single: true, Connect: &packet.Connect{Version: packet.V311, Clean: true}, Properties: &packet.Properties{}}
			to, _ := br.Connect(&h)
			to.Subscribe(&packet.Packet{ID: 1, Filters: []packet.Filter{{Text: []byte("#"), QoS: qos}}}, nil)
			go sink.run(to)
			p := packet.Packet{Type: packet.PUBLISH, Topic: []byte("signalbox/device00017/telemetry"), Payload: make([]byte, 200), QoS: qos}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p.ID = uint16(i%60000 + 1)
				for qos == 1 && br.stats.QueuedMessages.Load() > 10_000 {
					runtime.Gosched()
				}
				for from.Publish(&p).Wait > 0 {
					runtime.Gosched()
				}
			}
			b.ReportMetric(float64(br.stats.Delivered.Load())/b.Elapsed().Seconds(), "delivered/s")
		})
	}
}

type echo struct {
	deaf
	done chan []byte
}

func (e *echo) Write(b []byte) error {
	e.done <- append([]byte(nil), b...)
	return nil
}

func (e *echo) run(s *Session) {
	var p packet.Packet
	for b := range e.done {
		for len(b) > 0 {
			n, _, _ := packet.Size(b)
			if p.Decode(b[:n], packet.V311) == nil && p.Type == packet.PUBLISH && p.QoS == 1 {
				s.Ack(&packet.Packet{Type: packet.PUBACK, ID: p.ID})
			}
			b = b[n:]
		}
	}
}

func BenchmarkFanOut(b *testing.B) {
	br, err := New(Config{}, Parts{})
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = br.Run(b.Context()) }()
	list := connectMany(b, br, 1000, false)
	for _, s := range list {
		s.Subscribe(&packet.Packet{ID: 1, Filters: []packet.Filter{{Text: []byte("all")}}}, nil)
	}
	p := packet.Packet{Type: packet.PUBLISH, Topic: []byte("all"), Payload: make([]byte, 200)}
	b.ReportAllocs()
	for b.Loop() {
		list[0].Publish(&p)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/subscriber")
}

func BenchmarkRetainedForDevices(b *testing.B) {
	br, err := New(Config{}, Parts{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 18_000 {
		br.retained.set(br, &durable.Message{Topic: fmt.Sprintf("signalbox/device%05d/status", i), Payload: []byte("online"), Retain: true})
	}
	now := time.Now()
	for i := 0; b.Loop(); i++ {
		g := br.retained.giving(&subscription{filter: fmt.Sprintf("signalbox/device%05d/#", i%18_000)})
		for !g.over {
			g.portion(&br.retained, "", now)
		}
		if len(g.list) != 1 {
			b.Fatal(len(g.list))
		}
	}
}
