package ingest_test

import (
	"net/netip"
	"sync"
	"testing"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
)

// stand makes a session without a connection.
func (h *hub) stand(d *registry.Device) *session.Session {
	return &session.Session{ID: h.sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolMapped}
}

// TestReport: messages without a connection are part of the session that is there, or begin one.
func TestReport(t *testing.T) {
	h := newHub(t, t.TempDir(), history.Config{}).run(t)
	d := h.add(t, "env01")
	past := &ingest.Message{Body: []byte(`{"t":1}`)}
	if at, attached, v := h.road.Report(d, nil, past); v != ingest.Stored || attached || at == 0 || d.View().Presence != signalbox.Offline {
		t.Errorf("the past: position %d, attached %v, verdict %d, %s", at, attached, v, d.View().Presence)
	}
	if _, _, v := h.road.Report(d, nil, past); v != ingest.Duplicate {
		t.Errorf("the past again: verdict %d", v)
	}
	s := h.stand(d)
	also := signalbox.Entry{Kind: signalbox.EntryBroker, Body: []byte("x")}
	at, attached, v := h.road.Report(d, s, &ingest.Message{Body: []byte(`{"t":2}`), Also: &also})
	if v != ingest.Stored || !attached || h.sessions.Get(d.ID) != s || at != also.Position || at != h.log.Head() {
		t.Errorf("the first: position %d of %d, attached %v, verdict %d", at, also.Position, attached, v)
	}
	if _, attached, v := h.road.Report(d, h.stand(d), &ingest.Message{}); v != ingest.Duplicate || attached {
		t.Errorf("presence of one that is there: attached %v, verdict %d", attached, v)
	}
	own := h.connect(t, d)
	if _, v := h.road.Leave(d, s, "silent", nil); v != ingest.Stale {
		t.Errorf("the end of a session that was replaced: verdict %d", v)
	}
	if _, attached, v := h.road.Report(d, h.stand(d), &ingest.Message{Body: []byte(`{"t":3}`)}); v != ingest.Stored || attached || h.sessions.Get(d.ID) != own {
		t.Errorf("beside a connection: attached %v, verdict %d", attached, v)
	}
	h.road.Disconnect(d, own, "closed")
	s = h.stand(d)
	also = signalbox.Entry{Kind: signalbox.EntryBroker, Body: []byte("x")}
	if at, attached, v := h.road.Report(d, s, &ingest.Message{Also: &also}); v != ingest.Stored || !attached || at != also.Position {
		t.Errorf("presence: attached %v, verdict %d", attached, v)
	}
	also = signalbox.Entry{Kind: signalbox.EntryBroker, Body: []byte("x")}
	if at, v := h.road.Leave(d, s, "silent", &also); v != ingest.Stored || at != also.Position || h.sessions.Get(d.ID) != nil || d.View().Presence != signalbox.Offline {
		t.Errorf("its end: verdict %d, %s", v, d.View().Presence)
	}
	off := true
	if err := h.devices.Update(t.Context(), d, registry.Edit{Disabled: &off}, nil); err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]*session.Session{"a message": h.stand(d), "the past": nil} {
		if _, attached, v := h.road.Report(d, s, past); v != ingest.Stale || attached {
			t.Errorf("%s of a disabled device: attached %v, verdict %d", what, attached, v)
		}
	}
	if got := string(d.LatestObject()); got != `{"t":3}` {
		t.Errorf("the latest is %s", got)
	}
	h.flush(t)
}

// TestReportTogether: with connections and reports at once every message is stored, and at the
// end state and table of sessions agree.
func TestReportTogether(t *testing.T) {
	h := newHub(t, t.TempDir(), history.Config{}).run(t)
	d := h.add(t, "env01")
	const rounds = 200
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() {
			for range rounds {
				s := h.stand(d)
				if _, _, v := h.road.Report(d, s, &ingest.Message{Body: []byte(`{"t":1}`)}); v != ingest.Stored {
					t.Errorf("verdict %d", v)
				}
				h.road.Leave(d, s, "silent", nil)
			}
		})
	}
	work.Go(func() {
		for range rounds {
			s := h.stand(d)
			if _, v := h.road.Connect(d, s, netip.MustParseAddr("127.0.0.9")); v == ingest.Stored {
				h.road.Telemetry(d, s.ID, &ingest.Message{Body: []byte(`{"t":2}`)})
			}
			h.road.Disconnect(d, s, "closed")
		}
	})
	work.Wait()
	if n := h.road.Stats().Stored.Load(); n < 2*rounds {
		t.Errorf("%d were stored", n)
	}
	if s := h.sessions.Get(d.ID); (s != nil) != (d.View().Presence == signalbox.Online) {
		t.Errorf("the session is %+v, the device %s", s, d.View().Presence)
	}
	h.flush(t)
}

// TestReportNumbers: a number of the same power-up that comes again is not stored again, nor does
// it put the device online.
func TestReportNumbers(t *testing.T) {
	h := newHub(t, t.TempDir(), history.Config{}).run(t)
	d := h.add(t, "env01")
	message := func(boot, seq uint64) *ingest.Message {
		return &ingest.Message{Body: []byte(`{"t":1}`), Boot: boot, Seq: seq}
	}
	s := h.stand(d)
	first, _, v := h.road.Report(d, s, message(1<<63|1, 2))
	if v != ingest.Stored {
		t.Fatalf("the first: verdict %d", v)
	}
	for name, again := range map[string]*ingest.Message{"the same": message(1<<63|1, 2), "an older one": message(1<<63|1, 1)} {
		if at, attached, v := h.road.Report(d, h.stand(d), again); v != ingest.Duplicate || attached || at != first {
			t.Errorf("%s: position %d, attached %v, verdict %d; want a duplicate of %d", name, at, attached, v, first)
		}
	}
	h.road.Leave(d, s, "silent", nil)
	if _, attached, v := h.road.Report(d, h.stand(d), message(1<<63|1, 2)); v != ingest.Duplicate || attached {
		t.Errorf("while it is away: attached %v, verdict %d", attached, v)
	}
	if _, attached, v := h.road.Report(d, h.stand(d), message(1<<63|2, 1)); v != ingest.Stored || !attached {
		t.Errorf("of the next power-up: attached %v, verdict %d", attached, v)
	}
	h.flush(t)
}
