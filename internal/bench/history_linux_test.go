package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"signalbox/internal/store/storetest"
)

// tinySizes are a measurement of history that takes seconds.
func tinySizes() *historySizes {
	return &historySizes{
		devices: []int{10, 1000}, intake: 20_000, intakeLimit: limit,
		rows: []int{10}, rowMessages: 2000, rowLimit: limit,
		pastDevices: 5, messages: 140_000, fillLimit: limit, asked: time.Millisecond,
	}
}

// TestHistory runs the whole measurement, tiny, on each database.
func TestHistory(t *testing.T) {
	for _, kind := range []storetest.Kind{storetest.SQLite, storetest.MariaDB, storetest.PostgreSQL} {
		t.Run(string(kind), func(t *testing.T) {
			b := testBencher(t, "history")
			b.sizes = tinySizes()
			if kind != storetest.SQLite {
				b.Store = storetest.New(t, kind).URL()
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if err := runHistory(ctx, b); err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if err := b.report.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			t.Log(text.String())
			for _, want := range []string{"10 devices", "row a message", "last 20", "at row 71,", "as of", "in 1,000 buckets", "1 msg/s", "1 msg/min", "export of all", "retention"} {
				if !strings.Contains(text.String(), want) {
					t.Errorf("the report lacks %q", want)
				}
			}
			for _, row := range b.report.Rows {
				if row.Values[0].Value <= 0 {
					t.Errorf("%s: %s is %v", row.Name, row.Values[0].Name, row.Values[0].Value)
				}
			}
			name := databaseKind(b.Store) + ", a month"
			if b.report.getUnit(name, "in chunks", "B/msg") <= 0 || b.report.get(name, "messages") < 130_000 {
				t.Errorf("%s has %v messages", name, b.report.get(name, "messages"))
			}
		})
	}
}

// TestHistoryRefuses: a database with something in it is not touched.
func TestHistoryRefuses(t *testing.T) {
	db := storetest.New(t, storetest.PostgreSQL)
	st := db.Open(t)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.SQL(t).ExecContext(t.Context(), `INSERT INTO intake (id, n, received_us, received_last_us, body) VALUES (1, 1, 1, 1, '')`); err != nil {
		t.Fatal(err)
	}
	b := testBencher(t, "history")
	b.sizes, b.Store, b.Variants = tinySizes(), db.URL(), []string{"intake"}
	if err := runHistory(t.Context(), b); err == nil || !strings.Contains(err.Error(), "needs an empty one") {
		t.Errorf("a database in use gives %v", err)
	}
}

// TestSurviveHistory kills the engine twice at each of its works.
func TestSurviveHistory(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r, err := Run(ctx, "survive", Options{Dir: t.TempDir(), Rounds: 2, Variants: []string{"history"}, Duration: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 2 || r.get("history, kill -9", "chunks") == 0 || r.get("migration, kill -9", "rounds") != 2 {
		t.Errorf("the rows are %+v", r.Rows)
	}
}

func TestPlanPast(t *testing.T) {
	for _, tt := range []struct{ devices, messages int }{{5, 140_000}, {1000, 1_500_000}, {1000, 3_000_000}} {
		p, err := planPast(tt.devices, tt.messages, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		count, last := make([]int, tt.devices), make([]int64, tt.devices)
		n := 0
		p.each(func(device int, micros int64) bool {
			if micros <= last[device] || micros < p.begin().UnixMicro() || micros > p.End.Add(time.Second).UnixMicro() {
				t.Fatalf("device %d has a message at %d after %d", device, micros, last[device])
			}
			last[device] = micros
			count[device]++
			n++
			return true
		})
		if n != p.Messages || n > tt.messages || n < tt.messages*9/10 || count[0] != p.Deep {
			t.Errorf("%d messages instead of %d of %d, %d of device 1 instead of %d", n, p.Messages, tt.messages, count[0], p.Deep)
		}
		if cut := p.tenth(); !cut.After(p.begin()) || !cut.Before(p.End) {
			t.Errorf("a tenth is before %v", cut)
		}
	}
	if _, err := planPast(1000, 10_000, time.Now()); err == nil {
		t.Error("10,000 messages make a month of 1,000 devices")
	}
}

// TestBoxes: messages are what they are said to be.
func TestBoxes(t *testing.T) {
	const n = 50_000
	b := newBoxes(1, 1)
	changes := map[string]int{}
	before := map[string]any{}
	for i := range n {
		var object map[string]any
		body := b.next(0)
		if err := json.Unmarshal(body, &object); err != nil || len(body) < 95 || len(body) > 130 {
			t.Fatalf("%s (%d bytes): %v", body, len(body), err)
		}
		for key, value := range object {
			if i > 0 && before[key] != value {
				changes[key]++
			}
		}
		before = maps.Clone(object)
	}
	for key, each := range map[string]int{"servo1": 50, "servo2": 50, "button1": 20, "button2": 20} {
		if got, want := changes[key], n/each; got < want*8/10 || got > want*12/10 {
			t.Errorf("%s changes %d times in %d, want about %d", key, got, n, want)
		}
	}
	if got := changes["status"]; got == 0 || got > n/900 || changes["type"] != 0 {
		t.Errorf("status changes %d times, type %d", got, changes["type"])
	}
}
