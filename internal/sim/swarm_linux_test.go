package sim

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"signalbox"
)

func credentials(n int) []Credential {
	list := make([]Credential, n)
	for i := range list {
		list[i] = Credential{Name: "d" + string(rune('a'+i)), Secret: "good"}
	}
	return list
}

func newTestSwarm(t *testing.T, cfg SwarmConfig) (*Swarm, context.Context) {
	t.Helper()
	s, err := NewSwarm(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	if _, err := s.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	return s, ctx
}

// TestSwarm sends with sequence numbers, drops, returns and goes on where the hub says it was.
func TestSwarm(t *testing.T) {
	for _, version := range []signalbox.Protocol{signalbox.ProtocolV1, signalbox.ProtocolV2} {
		t.Run("version "+string('0'+rune(version)), func(t *testing.T) {
			h := newFakeHub(t)
			s, ctx := newTestSwarm(t, SwarmConfig{Addr: h.addr(), Credentials: credentials(10), Protocol: version, Workers: 2, Seq: version == signalbox.ProtocolV2})
			sent, err := s.Send(ctx, Load{Messages: 7})
			if err != nil || sent.Messages != 70 {
				t.Fatalf("%d messages: %v", sent.Messages, err)
			}
			for _, reset := range []bool{true, false} {
				if err := s.Drop(ctx, reset); err != nil {
					t.Fatal(err)
				}
				if n := s.Stats().Ready; n != 0 {
					t.Errorf("%d connections are ready after the drop", n)
				}
				if _, err := s.Connect(ctx); err != nil {
					t.Fatal(err)
				}
				if sent, err = s.Send(ctx, Load{Duration: 50 * time.Millisecond, Bunch: 3}); err != nil || sent.Messages == 0 {
					t.Fatalf("%d messages: %v", sent.Messages, err)
				}
			}
			total := s.Stats().Messages
			counts := map[string]uint64{}
			for range total {
				e := h.next(is("telemetry"))
				n := Counter(uint64(e.body["n"].(float64)))
				if counts[e.device]++; n != counts[e.device] {
					t.Fatalf("message %d of %s has number %d", counts[e.device], e.device, n)
				}
				if e.body["sum"] != Checksum(e.device, n) {
					t.Fatalf("message %d of %s has the sum %v", n, e.device, e.body["sum"])
				}
			}
			progress, err := s.Progress(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range progress {
				if p.Sent != counts[p.Name] || version == signalbox.ProtocolV2 && p.Saved != p.Sent {
					t.Errorf("%s sent %d, saved %d; the hub counted %d", p.Name, p.Sent, p.Saved, counts[p.Name])
				}
			}
		})
	}
}

func TestSwarmAnswersCommands(t *testing.T) {
	h := newFakeHub(t)
	s, _ := newTestSwarm(t, SwarmConfig{Addr: h.addr(), Credentials: credentials(1), Protocol: signalbox.ProtocolV2})
	h.next(is("auth"))
	h.tell("da", `{"type":"command","id":"X","command":"servo1","value":"1"}`)
	if e := h.next(is("ack")); e.body["id"] != "X" {
		t.Errorf("ack %v", e.body)
	}
	if e := h.next(is("result")); e.body["id"] != "X" || e.body["ok"] != true {
		t.Errorf("result %v", e.body)
	}
	if n := s.Stats().Commands; n != 1 {
		t.Errorf("%d commands were counted", n)
	}
}

func TestSwarmFails(t *testing.T) {
	h := newFakeHub(t)
	s, ctx := newTestSwarm(t, SwarmConfig{Addr: h.addr(), Credentials: credentials(2), Protocol: signalbox.ProtocolV2, Seq: true})
	h.next(is("auth"))
	h.next(is("auth"))
	sending := make(chan error, 1)
	go func() {
		_, err := s.Send(ctx, Load{Duration: patience, Rate: 100})
		sending <- err
	}()
	h.next(is("telemetry"))
	h.cut("da")
	if err := <-sending; err == nil {
		t.Error("a lost connection was no error")
	}
	if s.Stats().Lost != 1 {
		t.Errorf("%d lost", s.Stats().Lost)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := s.Send(short, Load{Duration: time.Hour, Rate: 10, Tolerate: true}); err == nil {
		t.Error("a canceled load was no error")
	}
	bad, err := NewSwarm(SwarmConfig{Addr: h.addr(), Credentials: []Credential{{"x", "bad"}}, Protocol: signalbox.ProtocolV2})
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	short, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := bad.Connect(short); err == nil {
		t.Error("a wrong password was no error")
	}
}

// TestMaker holds the template to JSON and to its own fields.
func TestMaker(t *testing.T) {
	mask := [4]byte{1, 2, 3, 4}
	for _, seq := range []bool{false, true} {
		m := newMaker(seq, seq, mask)
		for _, n := range []uint64{1, 79, 80, 123456789} {
			b := m.append(nil, hashName("dev"), n)
			payload := b[m.head:]
			for i := range payload {
				payload[i] ^= mask[i&3]
			}
			var got struct {
				Seq, N uint64
				Sum    string
				Servo1 int
				SentUs int64 `json:"sent_us"`
			}
			if err := json.Unmarshal(payload, &got); err != nil {
				t.Fatalf("%s: %v", payload, err)
			}
			if Counter(got.N) != n || got.Sum != Checksum("dev", n) || seq && got.Seq != got.N || got.Servo1 > 180 {
				t.Errorf("message %d is %s", n, payload)
			}
			if age := time.Since(time.UnixMicro(got.SentUs)); seq && (age < 0 || age > time.Minute) || !seq && got.SentUs != 0 {
				t.Errorf("message %d was made %s ago: %s", n, age, payload)
			}
		}
	}
}
