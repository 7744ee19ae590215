package sim

import (
	"fmt"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/wire/packet"
)

// TestMQTTSwarm sends, drops, returns and goes on, and a subscriber has all of it.
func TestMQTTSwarm(t *testing.T) {
	for _, five := range []bool{false, true} {
		for _, qos := range []uint8{0, 1} {
			t.Run(fmt.Sprintf("5.0 %t, QoS %d", five, qos), func(t *testing.T) {
				b := newFakeBroker(t)
				s, ctx := newTestSwarm(t, SwarmConfig{
					Addr: b.addr(), Credentials: credentials(10), Protocol: signalbox.ProtocolMQTT, MQTT5: five, QoS: qos, Workers: 2, Subscribe: true,
				})
				sub, err := NewSubscriber(ctx, SubscriberConfig{Addr: b.addr(), ClientID: "outside", Filters: []string{"signalbox/+/telemetry"}, MQTT5: five})
				if err != nil {
					t.Fatal(err)
				}
				defer sub.Close()
				sent, err := s.Send(ctx, Load{Messages: 37, Bunch: 4})
				if err != nil || qos == 1 && sent.Messages != 370 || sent.Messages < 370 {
					t.Fatalf("%d messages: %v", sent.Messages, err)
				}
				if err := s.Drop(ctx, false); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Connect(ctx); err != nil {
					t.Fatal(err)
				}
				for _, l := range []Load{{Duration: 30 * time.Millisecond, Bunch: 3}, {Duration: 50 * time.Millisecond, Rate: 1000}} {
					if sent, err = s.Send(ctx, l); err != nil || sent.Messages == 0 {
						t.Fatalf("%d messages: %v", sent.Messages, err)
					}
				}
				total := s.Stats().Messages
				await(t, "all of it", func() bool { return sub.Tally().Distinct == total })
				if tally := sub.Tally(); tally.Wrong+tally.Doubled+tally.Disordered > 0 || tally.Last.Before(tally.First) {
					t.Errorf("the subscriber had %+v", tally)
				}
				progress, err := s.Progress(ctx)
				if err != nil {
					t.Fatal(err)
				}
				sum := uint64(0)
				for _, p := range progress {
					sum += p.Sent
					if qos == 1 && p.Saved != p.Sent {
						t.Errorf("%s sent %d, %d are acknowledged", p.Name, p.Sent, p.Saved)
					}
				}
				if sum != uint64(total) {
					t.Errorf("%d messages by progress, %d by count", sum, total)
				}
				if latency := &s.SavedAfter; qos == 1 && latency.Count() == 0 || qos == 0 && s.RTT.Count() == 0 {
					t.Error("no latency was taken")
				}
				b.tell("da", `{"type":"command","id":"X","command":"servo1","value":"1"}`)
				b.next(isOn("signalbox/da/result"))
			})
		}
	}
}

// TestMQTTMessage holds the body to its size and its fields.
func TestMQTTMessage(t *testing.T) {
	if len(mqttPayload) != 200 {
		t.Errorf("a body has %d bytes", len(mqttPayload))
	}
	m := newPublisher(packet.V5, 1)
	for _, n := range []uint64{1, 79, 65_535, 65_536, 123_456_789} {
		var p packet.Packet
		if err := p.Decode(m.append(nil, "dev", hashName("dev"), n), packet.V5); err != nil {
			t.Fatal(err)
		}
		if got, ok := messageNumber(p.Payload, hashName("dev")); !ok || got != n || string(p.Topic) != "signalbox/dev/telemetry" || p.ID == 0 {
			t.Errorf("message %d is %d: %s", n, got, p.Payload)
		}
		if _, ok := messageNumber(p.Payload, hashName("other")); ok {
			t.Error("a message of another device was taken for good")
		}
	}
}

// TestSubscriber has a doubled message, an earlier one that comes later, and one that is none.
func TestSubscriber(t *testing.T) {
	b := newFakeBroker(t)
	sub, err := NewSubscriber(t.Context(), SubscriberConfig{Addr: b.addr(), ClientID: "outside", Filters: []string{"#"}, Persistent: true, After: 1, MQTT5: true})
	if err != nil {
		t.Fatal(err)
	}
	m := newPublisher(packet.V311, 1)
	for _, n := range []uint64{1, 2, 4, 4, 3} {
		var p packet.Packet
		if err := p.Decode(m.append(nil, "dev", hashName("dev"), n), packet.V311); err != nil {
			t.Fatal(err)
		}
		b.forward(&p)
	}
	b.forward(&packet.Packet{Topic: []byte("signalbox/dev/telemetry"), Payload: []byte("25")})
	await(t, "six messages", func() bool { return sub.Tally().Messages == 6 })
	for range 5 {
		b.next(isPacket(packet.PUBACK))
	}
	if got := sub.Tally(); got.Distinct != 3 || got.Doubled != 2 || got.Disordered != 1 || got.Wrong != 1 {
		t.Errorf("it had %+v", got)
	}
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	b.next(isPacket(packet.DISCONNECT))
	if _, err := NewSubscriber(t.Context(), SubscriberConfig{Addr: b.addr(), ClientID: "x", Login: Credential{"a", "bad"}}); err == nil {
		t.Error("a refused login was no error")
	}
}

func TestMQTTSwarmFails(t *testing.T) {
	for want, cfg := range map[string]SwarmConfig{
		"protocol 4": {Protocol: signalbox.ProtocolMapped},
		"service 2":  {Protocol: signalbox.ProtocolMQTT, QoS: 2},
		"service 0":  {Protocol: signalbox.ProtocolV2, Subscribe: true},
	} {
		cfg.Addr, cfg.Credentials = "127.0.0.1:1", credentials(1)
		if s, err := NewSwarm(cfg); err == nil {
			s.Close()
			t.Errorf("a swarm with %q was made", want)
		}
	}
}
