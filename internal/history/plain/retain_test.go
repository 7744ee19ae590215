package plain_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history/plain"
	"signalbox/internal/store/storetest"
)

func execute(t *testing.T, db *storetest.Database, queries ...string) {
	t.Helper()
	for _, query := range queries {
		if _, err := db.SQL(t).ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
}

// TestDroppedInQuiet: without further messages the table is made anew as well, by and by, or when retention finds it gone.
func TestDroppedInQuiet(t *testing.T) { storetest.Each(t, testDroppedInQuiet) }

func testDroppedInQuiet(t *testing.T, db *storetest.Database) {
	t.Helper()
	for _, looks := range []bool{true, false} {
		cfg := quick()
		if cfg.LookAgain = time.Hour; looks {
			cfg.LookAgain = 20 * time.Millisecond
		}
		h := start(t, db, cfg)
		h.put(t, signalbox.EntryTelemetry, 1, 0, `{"n":1}`)
		h.caughtUp(t)
		all := rows(t, db)
		execute(t, db, `DROP VIEW telemetry_named`, `DROP TABLE telemetry`)
		if !looks {
			if got, err := h.table.Retain(t.Context(), rules{1: time.Now()}.before); err != nil || got != (plain.Dropped{}) {
				t.Errorf("without a table, %+v goes, %v", got, err)
			}
		}
		until(t, func() string {
			if h.table.Stats().Rows.Load() >= int64(1+len(all)) {
				return ""
			}
			return "it is not made anew: " + h.said.String()
		})
		same(t, fmt.Sprint("it looks: ", looks), rows(t, db), all)
		h.stop(t)
	}
}

// TestStrangers: rows with numbers that are no device's are no hindrance; they go, as those of removed devices do, whatever
// their times.
func TestStrangers(t *testing.T) { storetest.Each(t, testStrangers) }

func testStrangers(t *testing.T, db *storetest.Database) {
	t.Helper()
	var removed atomic.Bool // device 2
	cfg := quick()
	cfg.Known = func(d signalbox.DeviceID) bool { return d == 3 || d == 1 || d == 2 && !removed.Load() }
	cfg.Devices = func() []signalbox.DeviceID { return []signalbox.DeviceID{3, 1} }
	h := start(t, db, cfg)
	kept := []want{h.put(t, signalbox.EntryTelemetry, 1, 0, `{"n":1}`)}
	h.put(t, signalbox.EntryImported, 2, time.Now().Add(30*time.Hour).UnixMicro(), `{"ahead":1}`)
	kept = append(kept, h.put(t, signalbox.EntryTelemetry, 3, 0, `{"n":1}`))
	h.caughtUp(t)
	for i, n := range []string{"9000000000000000", "9223372036854775807", "4294967297", "0", "-5", "-9223372036854775807"} {
		execute(t, db, fmt.Sprintf(`INSERT INTO telemetry (device, ts, seq, payload) VALUES (%s, '2025-01-01 00:00:00', %d, '{}')`, n, 1000+i))
	}
	removed.Store(true)
	for _, wanted := range []plain.Dropped{{Rows: 7}, {}} {
		if got, err := h.table.Retain(t.Context(), rules{}.before); err != nil || got != wanted {
			t.Errorf("%+v goes, %v; want %+v", got, err, wanted)
		}
	}
	same(t, "the others", rows(t, db), kept)
}

// TestRemovedMeanwhile: a device that is removed between the reading of a message and its transaction gets no row.
func TestRemovedMeanwhile(t *testing.T) { storetest.Each(t, testRemovedMeanwhile) }

func testRemovedMeanwhile(t *testing.T, db *storetest.Database) {
	t.Helper()
	var asked atomic.Int64
	cfg := quick()
	cfg.Known = func(d signalbox.DeviceID) bool { return d != 2 || asked.Add(1) == 1 }
	h := start(t, db, cfg)
	h.put(t, signalbox.EntryTelemetry, 2, 0, `{"n":1}`)
	kept := []want{h.put(t, signalbox.EntryTelemetry, 1, 0, `{"n":2}`)}
	h.caughtUp(t)
	if asked.Load() < 2 {
		t.Error("nobody asks once more")
	}
	same(t, "the others", rows(t, db), kept)
}

// TestTaken: what somebody else has made stays, also if it is empty.
func TestTaken(t *testing.T) {
	for name, query := range map[string]string{
		"telemetry":       `CREATE TABLE telemetry (x INT)`,
		"telemetry_named": `CREATE VIEW telemetry_named AS SELECT name FROM meta`,
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *storetest.Database) {
				t.Helper()
				start(t, db, nil).stop(t) // makes the other tables
				execute(t, db, query)
				h := start(t, db, quick())
				until(t, func() string {
					if strings.Contains(h.said.String(), "has a table or view "+name+" already") {
						return ""
					}
					return "nobody tells of it: " + h.said.String()
				})
				execute(t, db, `SELECT * FROM `+name)
			})
		})
	}
}

// TestKeepsAll: no day goes while a device that is there keeps all, though it has no row yet.
func TestKeepsAll(t *testing.T) {
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			cfg := quick()
			cfg.Devices = func() []signalbox.DeviceID { return []signalbox.DeviceID{1, 2} }
			h := start(t, storetest.New(t, kind), cfg)
			h.put(t, signalbox.EntryImported, 1, time.Now().AddDate(0, 0, -9).UnixMicro(), `{"n":1}`)
			h.caughtUp(t)
			if got, err := h.table.Retain(t.Context(), rules{1: time.Now().AddDate(0, 0, -2)}.before); err != nil || got != (plain.Dropped{Rows: 1}) {
				t.Errorf("%+v goes, %v", got, err)
			}
		})
	}
}

// TestPartitionsDropped: partitions that somebody dropped are no fault, and what comes late has its place again.
func TestPartitionsDropped(t *testing.T) {
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			db := storetest.New(t, kind)
			h := start(t, db, quick())
			today := time.Now().UTC().Truncate(aDay)
			var all []want
			put := func(back int) {
				all = append(all, h.put(t, signalbox.EntryImported, 1, today.AddDate(0, 0, -back).UnixMicro(), `{"n":1}`))
			}
			drop := func(backs ...int) {
				for _, back := range backs {
					at := today.AddDate(0, 0, -back)
					name := nameOf(at)
					if back > 366 {
						name = "old"
					}
					if kind == storetest.PostgreSQL {
						execute(t, db, `DROP TABLE telemetry_`+name)
					} else if back > 366 {
						execute(t, db, `ALTER TABLE telemetry DROP PARTITION p_old`)
					} else {
						execute(t, db, `ALTER TABLE telemetry DROP PARTITION p`+name)
					}
					all = slices.DeleteFunc(all, func(w want) bool { return w.micros == at.UnixMicro() })
				}
			}
			// In MariaDB what comes for a day that was dropped is with the next day.
			retain := func(back int, whole bool) {
				t.Helper()
				limit := today.AddDate(0, 0, -back)
				if got, err := h.table.Retain(t.Context(), rules{1: limit}.before); err != nil || got.Days == 0 {
					t.Errorf("%+v goes, %v", got, err)
				}
				all = slices.DeleteFunc(all, func(w want) bool { return w.micros < limit.UnixMicro() })
				if whole || kind == storetest.PostgreSQL {
					same(t, fmt.Sprint("within ", back, " days"), rows(t, db), all)
				}
			}
			for _, back := range []int{1000, 20, 19, 18, 17, 16, 15, 14, 13, 3, 1} {
				put(back)
			}
			h.caughtUp(t)
			drop(1000, 20, 18, 15)
			retain(15, true)
			drop(14)
			put(25) // before all, and where one was dropped
			put(14)
			put(1001)
			h.caughtUp(t)
			same(t, "late", rows(t, db), all)
			retain(13, false)
			retain(2, true)
			put(14)
			h.caughtUp(t)
			same(t, "later", rows(t, db), all)
		})
	}
}

// shortLog has committed more than it gives: the rest was dropped.
type shortLog struct{ scans atomic.Int64 }

func (l *shortLog) Scan(_ context.Context, from signalbox.Position, yield func(*signalbox.Entry) error) error {
	l.scans.Add(1)
	for p := from; p <= 5; p++ {
		if err := yield(&signalbox.Entry{Position: p, Kind: signalbox.EntryTelemetry, Device: 1, TimeMicros: int64(p), Body: []byte(`{}`)}); err != nil {
			return err
		}
	}
	return nil
}
func (l *shortLog) Committed() signalbox.Position     { return 10 }
func (l *shortLog) OnCommit(func(signalbox.Position)) {}
func (l *shortLog) Err() error                        { return nil }

// TestDroppedEnd: what the log has dropped at its end is not waited for.
func TestDroppedEnd(t *testing.T) {
	db := storetest.New(t, storetest.SQLite)
	st := db.Open(t)
	log := &shortLog{}
	table, err := plain.Open(*quick(), st.Store, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	until(t, func() string {
		if table.Through() == 10 && table.Behind() == 0 {
			return ""
		}
		return fmt.Sprintf("the table is at %d after %d scans", table.Through(), log.scans.Load())
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := table.Close(); err != nil {
		t.Error(err)
	}
	if got := len(rows(t, db)); got != 5 {
		t.Errorf("there are %d rows, want 5", got)
	}
}
