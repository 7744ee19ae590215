package forward

import (
	"bytes"
	"strings"
	"testing"

	"signalbox/internal/store"
)

// TestURLIsSealed: what may be secret in a target's URL is on disk under the key file alone, and
// used again after a start.
func TestURLIsSealed(t *testing.T) {
	const to = "http://203.0.113.9/hook?token=QUERYSECRET99"
	w := begin(t, t.TempDir(), Config{}, nil, only(&discard{}))
	spec := Spec{Name: "hook", To: to, Paused: true}
	if _, err := w.m.Add(t.Context(), spec, "me"); err != nil {
		t.Fatal(err)
	}
	err := w.st.Forwarders(t.Context(), func(f store.Forwarder) error {
		if stored := append(bytes.Clone(f.Spec), f.Secrets...); bytes.Contains(stored, []byte("QUERYSECRET99")) {
			t.Errorf("stored is %s", stored)
		}
		row := newForwarder(w.m, Spec{}, false)
		row.read(&f)
		if row.spec.To != to || row.broken != "" {
			t.Errorf("read back is %q, %s", row.spec.To, row.broken)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTemplateIsBounded: naming a large object many times gives a dead letter, and takes no more
// memory than a message may.
func TestTemplateIsBounded(t *testing.T) {
	for name, test := range map[string]struct {
		times int
		large bool
	}{"fits": {100, false}, "too large": {110, true}} {
		t.Run(name, func(t *testing.T) {
			tm, err := CompileTemplate(strings.Repeat("{object}", test.times))
			if err != nil {
				t.Fatal(err)
			}
			object := []byte(`{"text":"` + strings.Repeat("x", 40<<10) + `"}`)
			out, reason := tm.append([]byte("before"), &values{m: &Message{}, object: object, stamps: &stamps{}})
			if test.large != (reason != "") || test.large && string(out) != "before" || !test.large && len(out) != len("before")+test.times*len(object) {
				t.Errorf("%d bytes, %q", len(out), reason)
			}
			if cap(out) > 4*maxFilled {
				t.Errorf("it took %d bytes", cap(out))
			}
		})
	}
}
