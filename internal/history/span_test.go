package history_test

import (
	"strconv"
	"testing"

	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// TestLongestChunkAfterAFault: how long chunks are is in the database, also when the
// transaction that first said so was lost. A start could not find all of them without it.
func TestLongestChunkAfterAFault(t *testing.T) {
	if !onFile() {
		return // once is enough
	}
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			db := storetest.New(t, kind)
			p := storetest.NewProxy(t, db)
			b := &bench{st: db.Open(t, func(c *store.Config) { c.URL = db.URLAt(p) }).Store}
			var err error
			if b.log, err = history.Open(t.Context(), smallTails(nil), b.st); err != nil {
				t.Fatal(err)
			}
			b.restore(t, 0)
			b.run(t, patience)
			p.Order(storetest.Cut{Text: "history_span"})
			numbered(t, b, 3, 3000)
			until(t, "chunks are made after a transaction was lost", func() bool { return p.Cuts() == 1 && b.log.Stats().Chunks.Load() > 0 })
			if err := b.stop(); err != nil {
				t.Fatal(err)
			}
			var longest int64
			if err := b.st.Reader().QueryRowContext(t.Context(), `SELECT COALESCE(MAX(p1 - p0), 0) FROM chunk`).Scan(&longest); err != nil {
				t.Fatal(err)
			}
			text, err := b.st.Meta(t.Context(), "history_span")
			if err != nil {
				t.Fatal(err)
			}
			if noted, err := strconv.ParseInt(text, 10, 64); err != nil || noted < longest || longest == 0 {
				t.Errorf("the longest chunk has %d positions between its ends, the database says %q", longest, text)
			}
		})
	}
}
