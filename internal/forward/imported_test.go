package forward

import (
	"fmt"
	"testing"
	"time"

	"signalbox"
)

// TestImportedWhileAway: a forwarder that was away while history was imported is sent what
// happened and nothing of the import, which by then is in no row of the log but sealed.
func TestImportedWhileAway(t *testing.T) {
	r := &recorder{}
	spec := simple("{field.n}")
	spec.Paused = true
	w := begin(t, t.TempDir(), Config{}, []string{"box1", "box2"}, only(r))
	if _, err := w.m.Add(t.Context(), spec, ""); err != nil {
		t.Fatal(err)
	}
	year := time.Now().AddDate(-1, 0, 0).UnixMicro()
	imported := func(device, n int) {
		e := signalbox.Entry{Device: w.ids[device], Kind: signalbox.EntryImported, TimeMicros: year + int64(n)*1e6, Body: []byte(`{"n":"imported"}`)}
		w.append(t, &e)
	}
	const messages = 500
	for i := range messages {
		w.put(t, 0, fmt.Sprintf(`{"n":%d}`, i))
		for k := range 3 {
			imported(0, 3*i+k)
		}
	}
	end := w.log.Head()
	w.wait(t, end)
	// The log's rows leave when what came long before is in chunks.
	deadline := time.Now().Add(patience)
	for n := 0; w.log.Committed() < end+signalbox.Position(w.log.Kept()); n++ {
		if time.Now().After(deadline) {
			t.Fatalf("the log still has what is up to %d: %d of %d entries", end, w.log.Kept(), w.log.Committed())
		}
		imported(1, n)
		if n%100 == 0 {
			w.wait(t, w.log.Head())
			if _, err := w.devices.Checkpoint(t.Context(), w.log); err != nil { // before that it holds all
				t.Fatal(err)
			}
		}
	}
	w.put(t, 1, `{"n":"last"}`)
	if err := w.m.Pause(t.Context(), "to", false); err != nil {
		t.Fatal(err)
	}
	s := w.settled(t, "to", w.log.Head())
	got := r.bodies(t, messages+1)
	for i, body := range got[:messages] {
		if body != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, body)
		}
	}
	if got[messages] != "last" || s.Sent != messages+1 {
		t.Errorf("the last one is %q of %d that were sent", got[messages], s.Sent)
	}
}
