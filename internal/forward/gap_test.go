package forward

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"signalbox"
)

// TestGaps lets retention drop what a paused forwarder has not read: it says so once, counts it, and
// sends the rest.
func TestGaps(t *testing.T) {
	told := &shared{}
	logger := slog.New(slog.NewTextHandler(told, &slog.HandlerOptions{Level: slog.LevelWarn}))
	dir := t.TempDir()
	names := []string{"box1", "box2"}
	w := begin(t, dir, Config{Logger: logger}, names, only(&discard{}))
	spec := simple("{field.n}")
	spec.Paused = true
	if _, err := w.m.Add(t.Context(), spec, ""); err != nil {
		t.Fatal(err)
	}
	begun := w.log.Committed()
	put := func(device, n int) {
		for range n {
			w.put(t, device, `{"n":1}`)
		}
		w.wait(t, w.log.Head())
	}
	put(0, 1500)
	end := w.log.Head()
	// The log's rows leave when what came long before is in chunks.
	for deadline := time.Now().Add(patience); int(w.log.Committed())-w.log.Kept() < int(end); {
		if time.Now().After(deadline) {
			t.Fatalf("the log still has what is up to %d: %d of %d entries", end, w.log.Kept(), w.log.Committed())
		}
		put(1, 100)
		if _, err := w.devices.Checkpoint(t.Context(), w.log); err != nil { // before that it holds all
			t.Fatal(err)
		}
	}
	dropped, err := w.log.DropBefore(t.Context(), func(d signalbox.DeviceID) time.Time {
		if d == w.ids[0] {
			return time.Now().Add(time.Hour)
		}
		return time.Time{}
	}, nil)
	sent := int64(w.log.Head()-begun) - dropped.Messages
	if err != nil || dropped.Messages == 0 {
		t.Fatal(dropped, err)
	}
	if err := w.m.Pause(t.Context(), spec.Name, false); err != nil {
		t.Fatal(err)
	}
	w.settled(t, spec.Name, w.log.Head())
	put(1, 10)
	s := w.settled(t, spec.Name, w.log.Head())
	if s.Gaps != 1 || s.Sent != sent+10 || s.Skipped != 0 {
		t.Errorf("%d gaps, %d sent and %d skipped; want 1, %d and 0", s.Gaps, s.Sent, s.Skipped, sent+10)
	}
	w.end()
	if n := strings.Count(told.String(), "retention has dropped entries"); n != 1 {
		t.Errorf("the log tells %d times:\n%s", n, told.String())
	}
	w = begin(t, dir, Config{Logger: logger}, names, only(&discard{}))
	if s := w.until(t, spec.Name, "flowing", func(s *Status) bool { return s.State == StateFlowing }); s.Gaps != 1 {
		t.Errorf("after a start there are %d gaps, want 1", s.Gaps)
	}
	w.end()
}
