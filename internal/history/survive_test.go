package history_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// logged is what a logger wrote.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) has(words ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.buf.Bytes()) {
		all := true
		for _, w := range words {
			all = all && bytes.Contains(line, []byte(w))
		}
		if all {
			return true
		}
	}
	return false
}

// smallTails makes many chunks of few messages.
func smallTails(logger *slog.Logger) history.Config {
	return history.Config{RowBytes: 4 << 10, TailBytes: 64 << 10, TailEntries: 900, TailRows: 100, Logger: logger}
}

// numbered appends messages 0 to n-1 to each of some devices in turn, all of them known by their number.
func numbered(t *testing.T, b *bench, devices, n int) {
	t.Helper()
	for i := range n {
		for d := range devices {
			b.append(t, telemetry(signalbox.DeviceID(d+1), numberedBody(d+1, i)), history.Soon)
		}
	}
	b.wait(t, b.log.Head())
}

func numberedBody(device, i int) string {
	return fmt.Sprintf(`{"device":%d,"i":%d,"sum":"%x"}`, device, i, uint64(i)*0x9e3779b97f4a7c15)
}

// history gives the numbers of a device's messages, oldest first, and checks what they are.
func (b *bench) numbers(t *testing.T, device signalbox.DeviceID) (all []int) {
	t.Helper()
	q := history.Query{Device: device, Order: history.OldestFirst, Limit: 1000}
	for {
		page, err := b.log.Page(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			var d, i int
			if _, err := fmt.Sscanf(string(m.Object), `{"device":%d,"i":%d,`, &d, &i); err != nil || string(m.Object) != numberedBody(int(device), i) {
				t.Fatalf("device %d has %s", device, m.Object)
			}
			all = append(all, i)
		}
		if len(page) < q.Limit {
			return all
		}
		q.After = history.CursorOf(&page[len(page)-1])
	}
}

// TestBrokenChunk flips a byte of a chunk in the database: its checksum tells, the log names it, and everything else is
// served.
func TestBrokenChunk(t *testing.T) {
	const devices, each = 3, 3000
	for _, tt := range []struct {
		name  string
		spoil func(body []byte) []byte
	}{
		{"a byte in the middle", func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b }},
		{"the version", func(b []byte) []byte { b[0] ^= 0x40; return b }},
		{"the last byte", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{"cut off", func(b []byte) []byte { return b[:len(b)/2] }},
		{"empty", func([]byte) []byte { return []byte{} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, said := t.TempDir(), new(logged)
			cfg := smallTails(slog.New(slog.NewTextHandler(said, nil)))
			b := start(t, dir, cfg)
			numbered(t, b, devices, each)
			var id, n, base, t0, t1 int64
			var body []byte
			for deadline := time.Now().Add(patience); ; {
				err := b.st.Reader().QueryRowContext(t.Context(), `SELECT id, n, base, t0, t1, body FROM chunk WHERE device = 2 ORDER BY t0, p0 LIMIT 1 OFFSET 3`).Scan(&id, &n, &base, &t0, &t1, &body)
				if err == nil {
					break
				}
				if !errors.Is(err, sql.ErrNoRows) || time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
			b = b.reopen(t, dir, cfg, 0)
			body = tt.spoil(body)
			err := b.st.Update(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE chunk SET body = ? WHERE id = ?`, body, id)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for d := range devices {
				got := b.numbers(t, signalbox.DeviceID(d+1))
				want := make([]int, 0, each)
				for i := range each {
					if d != 1 || int64(i) < base || int64(i) >= base+n {
						want = append(want, i)
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("device %d has %d messages, want %d", d+1, len(got), len(want))
				}
			}
			if !said.has("level=ERROR", fmt.Sprintf("chunk=%d", id), "device_id=2") || b.log.Stats().Broken.Load() == 0 {
				t.Errorf("the broken chunk %d was not named, %d are counted: %s", id, b.log.Stats().Broken.Load(), said.buf.String())
			}
			inTime, inLog := 0, 0
			if err := b.log.ScanTime(t.Context(), history.ScanQuery{}, func(*signalbox.Entry) error { inTime++; return nil }); err != nil {
				t.Error(err)
			}
			if err := b.log.Scan(t.Context(), 1, func(*signalbox.Entry) error { inLog++; return nil }); err != nil {
				t.Error(err)
			}
			if want := devices*each - int(n); inTime != want || inLog < want {
				t.Errorf("scans give %d by time and %d of the log, want %d", inTime, inLog, want)
			}
			first, last := time.UnixMicro(t0).Add(-time.Hour), time.UnixMicro(t1).Add(time.Hour)
			sums, err := b.log.Buckets(t.Context(), history.BucketQuery{Device: 2, Fields: []string{"i"}, From: first, To: last, N: 1})
			if err != nil || sums[0][0].Count != each-int(n) || sums[0][0].Last != each-1 {
				t.Errorf("buckets give %+v, %v; want %d messages", sums, err, each-int(n))
			}
			// It goes on: new messages come and are sealed behind the broken chunk.
			before := b.log.Stats().ChunkMessages.Load()
			for i := each; i < each+3000; i++ {
				b.append(t, telemetry(2, numberedBody(2, i)), history.Soon)
			}
			b.wait(t, b.log.Head())
			if got := b.numbers(t, 2); len(got) != each+3000-int(n) {
				t.Errorf("after more there are %d messages, want %d", len(got), each+3000-int(n))
			}
			for deadline := time.Now().Add(patience); b.log.Stats().ChunkMessages.Load() == before; {
				if time.Now().After(deadline) {
					t.Fatal("nothing more is sealed")
				}
			}
		})
	}
}

// TestFullDiskWhileSealing lets the disk get full while chunks are made all the time, again and again.
func TestFullDiskWhileSealing(t *testing.T) {
	if !onFile() {
		return
	}
	const devices, rounds = 5, 4
	dir := t.TempDir()
	cfg := smallTails(nil)
	cfg.MaxPending = 64 << 10
	b := start(t, dir, cfg)
	sent := 0
	for round := range rounds {
		sealed := b.log.Stats().ChunkMessages.Load()
		sent = feed(t, b, devices, sent, sent+8000, false)
		for deadline := time.Now().Add(patience); b.log.Stats().ChunkMessages.Load() == sealed; {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: nothing is sealed", round)
			}
		}
		empty := fill(t, b.st)
		// The next pages are those of rows of the log or of chunks: soon one does not fit.
		sent = feed(t, b, devices, sent, sent+1_000_000, true)
		if err := b.log.Err(); signalbox.CodeOf(err) != "disk_full" {
			t.Fatalf("round %d: the full disk is told as %v", round, err)
		}
		stored := b.log.Committed()
		if err := b.log.Wait(expired(t), stored); err != nil {
			t.Errorf("round %d: what is stored is not: %v", round, err)
		}
		empty()
		b.wait(t, b.log.Head())
		if b.log.Err() != nil || b.log.Head() != signalbox.Position(sent) {
			t.Fatalf("round %d: after recovery %v, the log ends at %d of %d", round, b.log.Err(), b.log.Head(), sent)
		}
		if round == rounds/2 {
			b = b.reopen(t, dir, cfg, 0)
		}
		for d := range devices {
			got := b.numbers(t, signalbox.DeviceID(d+1))
			for i, n := range got {
				if n != i {
					t.Fatalf("round %d: message %d of device %d is number %d", round, i, d+1, n)
				}
			}
			if want := (sent + devices - 1 - d) / devices; len(got) != want {
				t.Fatalf("round %d: device %d has %d messages, want %d", round, d+1, len(got), want)
			}
		}
	}
}

// feed appends the messages from number from on, of some devices in turn, until to, or if untilFull until the log refuses
// one because the disk is full; it gives the number that comes next.
func feed(t *testing.T, b *bench, devices, from, to int, untilFull bool) int {
	t.Helper()
	deadline := time.Now().Add(patience)
	for k := from; k < to; k++ {
		e := telemetry(signalbox.DeviceID(k%devices+1), numberedBody(k%devices+1, k/devices))
		for {
			err := b.log.Append(&e, history.Soon)
			if err == nil {
				break
			}
			if !errors.Is(err, history.ErrFull) || time.Now().After(deadline) {
				t.Fatalf("message %d: %v (%v)", k, err, b.log.Err())
			}
			if untilFull && b.log.Err() != nil {
				return k
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_ = b.log.Wait(ctx, b.log.Head()) // until there is room
			cancel()
		}
	}
	if untilFull {
		t.Fatal("the disk did not get full")
	}
	b.wait(t, b.log.Head())
	return to
}

// expired is a context that has ended.
func expired(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
