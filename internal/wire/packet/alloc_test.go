package packet

import (
	"strings"
	"testing"
)

// hot are the packets that have to be decoded and encoded without memory.
func hot() []golden {
	sensor := Packet{Topic: []byte("signalbox/boiler-room-7/telemetry"), Payload: []byte(`{"temp":25.8,"humidity":41}`)}
	ack := sensor
	ack.QoS, ack.ID = 1, 77
	rich := ack
	rich.Properties = *with(func(p *Properties) {
		p.PayloadFormat, p.MessageExpiry, p.ContentType = 1, 60, []byte("application/json")
		p.Set(PayloadFormat)
		p.Set(MessageExpiry)
		p.Set(ContentType)
	})
	named := rich
	named.Properties.AddUser("boot", "a71c")
	named.Properties.AddUser("seq", "17")
	far := sensor
	far.Topic = []byte("Umgebung/Küche/Temperatur")
	one := func(name string, v Version, b []byte) golden { return golden{name: name, v: v, want: b} }
	return []golden{
		one("publish QoS 0 3.1.1", V311, AppendPublish(nil, V311, &sensor)),
		one("publish QoS 0 5.0", V5, AppendPublish(nil, V5, &sensor)),
		one("publish QoS 1 5.0", V5, AppendPublish(nil, V5, &ack)),
		one("publish properties", V5, AppendPublish(nil, V5, &rich)),
		one("publish user properties", V5, AppendPublish(nil, V5, &named)),
		one("publish not ASCII", V311, AppendPublish(nil, V311, &far)),
		one("PUBACK", V5, AppendAck(nil, V5, PUBACK, 1, 0, nil)),
		one("PUBREC", V5, AppendAck(nil, V5, PUBREC, 1, QuotaExceeded, nil)),
		one("PUBREL", V311, AppendAck(nil, V311, PUBREL, 1, 0, nil)),
		one("PUBCOMP", V311, AppendAck(nil, V311, PUBCOMP, 1, 0, nil)),
		one("PINGREQ", V311, AppendPing(nil, PINGREQ)),
		one("PINGRESP", V311, AppendPing(nil, PINGRESP)),
		one("DISCONNECT", V5, AppendDisconnect(nil, V5, DisconnectWithWill, nil)),
		one("CONNECT", V5, AppendConnect(nil, &Connect{Version: V5, ClientID: []byte("id"), HasUser: true, User: []byte("u")}, users("k", "v"))),
		one("SUBSCRIBE", V311, AppendSubscribe(nil, V311, 1, []Filter{{Text: []byte("a/#")}, {Text: []byte("b")}}, nil)),
		one("SUBACK", V311, AppendSuback(nil, V311, 1, []byte{1, 0x80}, nil)),
	}
}

func TestNoAllocations(t *testing.T) {
	for _, h := range hot() {
		t.Run(h.name, func(t *testing.T) {
			var p Packet
			if err := p.Decode(h.want, h.v); err != nil {
				t.Fatal(err)
			}
			if n := testing.AllocsPerRun(100, func() {
				if _, _, err := Size(h.want); err != nil {
					t.Error(err)
				}
				if err := p.Decode(h.want, h.v); err != nil {
					t.Error(err)
				}
			}); n != 0 {
				t.Errorf("decoding takes %v allocations", n)
			}
			b := make([]byte, 0, 512)
			if n := testing.AllocsPerRun(100, func() {
				switch p.Type {
				case PUBLISH:
					b = AppendPublish(b[:0], h.v, &p)
				case PUBACK, PUBREC, PUBREL, PUBCOMP:
					b = AppendAck(b[:0], h.v, p.Type, p.ID, p.Reason, nil)
				case PINGREQ, PINGRESP:
					b = AppendPing(b[:0], p.Type)
				case SUBSCRIBE:
					b = AppendSubscribe(b[:0], h.v, p.ID, p.Filters, &p.Properties)
				case SUBACK:
					b = AppendSuback(b[:0], h.v, p.ID, p.Reasons, &p.Properties)
				case CONNECT:
					b = AppendConnect(b[:0], &p.Connect, &p.Properties)
				default:
					b = AppendDisconnect(b[:0], h.v, p.Reason, nil)
				}
			}); n != 0 {
				t.Errorf("encoding takes %v allocations", n)
			}
		})
	}
	topic, filter := "signalbox/"+strings.Repeat("Küche", 30), "signalbox/+/"+strings.Repeat("Küche", 30)+"/#"
	b := []byte(topic)
	if n := testing.AllocsPerRun(100, func() {
		if CheckTopic(topic) != nil || CheckTopic(b) != nil || CheckFilter(filter) != nil || Match(filter, topic) || Match(filter, b) {
			t.Error("a good topic or filter is refused, or they match")
		}
	}); n != 0 {
		t.Errorf("checking topics takes %v allocations", n)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, h := range hot() {
		b.Run(strings.ReplaceAll(h.name, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			var p Packet
			for b.Loop() {
				if err := p.Decode(h.want, h.v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSize(b *testing.B) {
	packet := hot()[0].want
	for b.Loop() {
		if _, ok, err := Size(packet); !ok || err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	for _, h := range hot()[:5] {
		b.Run(strings.ReplaceAll(h.name, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			var p Packet
			if err := p.Decode(h.want, h.v); err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 0, 512)
			for b.Loop() {
				buf = AppendPublish(buf[:0], h.v, &p)
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	topic := []byte("signalbox/boiler-room-7/telemetry")
	for _, filter := range []string{"signalbox/boiler-room-7/telemetry", "signalbox/+/telemetry", "#", "signalbox/boiler-room-8/#"} {
		b.Run(filter, func(b *testing.B) {
			for b.Loop() {
				Match(filter, topic)
			}
		})
	}
}

func BenchmarkCheckTopic(b *testing.B) {
	for _, topic := range []string{"signalbox/boiler-room-7/telemetry", "Umgebung/Küche/Temperatur"} {
		b.Run(topic, func(b *testing.B) {
			for b.Loop() {
				if err := CheckTopic(topic); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
