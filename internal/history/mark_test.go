package history_test

import (
	"testing"

	"signalbox"
	"signalbox/internal/history"
)

// TestMarkKeepsToTheLog: a start looks for messages that are both in the log and in chunks only
// in chunks from the mark on, so at no moment may there be any in a chunk before it.
func TestMarkKeepsToTheLog(t *testing.T) {
	if !onFile() {
		return // once is enough
	}
	const each = 250
	dir, cfg := t.TempDir(), smallTails(nil)
	b := start(t, dir, cfg)
	n := 0
	for life, steps := range []int{300, 8, 8, 8} { // marks are made once in 65,536 messages
		for step := range steps {
			for range each {
				device := signalbox.DeviceID(n%97%(n%7+1) + 1) // some send much, some little
				b.append(t, telemetry(device, numberedBody(int(device), n)), history.Soon)
				n++
			}
			b.wait(t, b.log.Head())
			var wrong int
			err := b.st.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM chunk
				WHERE id < (SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'history_mark') AND p1 >= (SELECT MIN(id) FROM intake)`).Scan(&wrong)
			if err != nil {
				t.Fatal(err)
			}
			if wrong > 0 {
				t.Fatalf("life %d, step %d: %d chunks before the mark have messages that are in the log", life, step, wrong)
			}
		}
		b = b.reopen(t, dir, cfg, 0)
	}
	found := map[signalbox.Position]bool{}
	err := b.log.ScanTime(t.Context(), history.ScanQuery{}, func(e *signalbox.Entry) error {
		if found[e.Position] {
			t.Fatalf("message %d is there twice", e.Position)
		}
		found[e.Position] = true
		return nil
	})
	if err != nil || len(found) != n {
		t.Errorf("there are %d messages, want %d (%v)", len(found), n, err)
	}
}
