package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// churn is telemetry of which everybody knows what it must be: message g, from 1, has position g, and its device, time
// and content follow from g. Its load keeps sealer, tidier and retention busy, so that a kill hits them at work.
type churn struct {
	Devices int `json:"devices"`
	// Keep is how many of the newest messages retention leaves.
	Keep int64 `json:"keep"`
	// Cut is the message before whose time retention may have dropped everything.
	Cut int64 `json:"cut"`
	// Acked is the last message that is known to be stored.
	Acked int64 `json:"acked"`
	// Plain seals nothing and drops nothing; Old then makes the tables those of the first release.
	Plain bool `json:"plain"`
	Old   bool `json:"old"`
	// Count ends it; 0: it goes on until it is killed.
	Count int64 `json:"count"`

	sealed bool // there are chunks: known to who kills it
}

const (
	churnBase = 1_700_000_000 * int64(time.Second/time.Microsecond) // time of message 0, µs
	churnStep = 1000                                                // between two
	busyMost  = 5                                                   // devices that send most
	lateMost  = 60_000                                              // steps that an imported message lies back
)

// mix spreads a number.
func mix(g int64) uint64 {
	x := uint64(g) * 0x9e3779b97f4a7c15
	x ^= x >> 31
	x *= 0xbf58476d1ce4e5b9
	return x ^ x>>29
}

// imported says which messages come as an import does: late, and marked.
func (c *churn) imported(g int64) bool { return mix(g)%17 == 0 }

// micros is the time of a message.
func (c *churn) micros(g int64) int64 {
	at := churnBase + g*churnStep
	if c.imported(g) {
		at -= int64(mix(g) >> 20 % lateMost * churnStep)
	}
	return at
}

// device: a few send most, the others now and then.
func (c *churn) device(g int64) signalbox.DeviceID {
	if h := mix(g) >> 8; h%8 == 0 {
		return signalbox.DeviceID(1 + h>>3%uint64(c.Devices))
	}
	return signalbox.DeviceID(1 + g%busyMost)
}

// body appends the content of a message.
func (c *churn) body(to []byte, g int64) []byte {
	to = append(to, `{"type":"telemetry","g":`...)
	from := len(to)
	to = strconv.AppendInt(to, g, 10)
	sum := crc32.ChecksumIEEE(to[from:])
	to = append(to, `,"servo1":`...)
	to = strconv.AppendUint(to, uint64(g/50%181), 10)
	to = append(to, `,"sum":"`...)
	to = strconv.AppendUint(to, uint64(sum), 16)
	return append(to, `"}`...)
}

// config has small limits, so that a second of load makes thousands of chunks.
func (c *churn) config() history.Config {
	if c.Plain {
		return history.Config{}
	}
	return history.Config{RowBytes: 8 << 10, TailBytes: 256 << 10, TailEntries: 8000, TailRows: 200}
}

// churn makes the load until it is killed. It says what is acknowledged, and what will be dropped before it is.
func (e *engine) churn(ctx context.Context) (err error) {
	c := &e.Churn
	if _, err := e.open(ctx, c.config()); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, e.stop())
		if err == nil && c.Old {
			err = e.makeOld(ctx)
		}
	}()
	first := int64(e.log.Committed()) + 1
	running, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	if !c.Plain {
		group.Go(func() { cancel(e.retainChurn(running)) })
	}
	var body []byte
	for g := first; c.Count == 0 || g < first+c.Count; g++ {
		entry := signalbox.Entry{Kind: signalbox.EntryTelemetry, Device: c.device(g), TimeMicros: c.micros(g)}
		if c.imported(g) {
			entry.Kind = signalbox.EntryImported
		}
		body = c.body(body[:0], g)
		entry.Body = body
		if err := e.put(running, &entry); err != nil {
			return errors.Join(err, context.Cause(running))
		}
		if entry.Position != signalbox.Position(g) {
			return fmt.Errorf("message %d has position %d", g, entry.Position)
		}
		if g%512 != 0 {
			continue
		}
		if err := e.log.Wait(running, entry.Position); err != nil {
			return errors.Join(err, context.Cause(running))
		}
		if err := e.say(historyLine{Acked: g, Chunks: e.log.Stats().Chunks.Load()}); err != nil {
			return err
		}
	}
	cancel(nil)
	return nil
}

// retainPause lies between two rounds of retention.
const retainPause = 30 * time.Millisecond

// retainChurn drops what is old, again and again.
func (e *engine) retainChurn(ctx context.Context) error {
	tick := time.NewTicker(retainPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		cut := int64(e.log.Committed()) - e.Churn.Keep
		if cut <= 0 {
			continue
		}
		if err := e.say(historyLine{Cut: cut}); err != nil {
			return err
		}
		before := time.UnixMicro(churnBase + cut*churnStep)
		if _, err := e.log.DropBefore(ctx, func(signalbox.DeviceID) time.Time { return before }, nil); err != nil && ctx.Err() == nil {
			return fmt.Errorf("retention: %w", err)
		}
		if _, err := e.st.Reclaim(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("reclaim: %w", err)
		}
	}
}

// makeOld makes the tables those of the first release, which had no chunks, no broker and no devices that wait for approval.
func (e *engine) makeOld(ctx context.Context) (err error) {
	st, err := store.Open(ctx, store.Config{Dir: e.Dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return st.Update(ctx, func(tx *store.Tx) error {
		for _, text := range []string{
			`DROP TABLE chunk`,
			`DROP TABLE shape`,
			`DELETE FROM meta WHERE name LIKE 'history%'`,
			`ALTER TABLE intake ADD COLUMN devices BLOB NOT NULL DEFAULT x''`,
			`ALTER TABLE intake ADD COLUMN time_min_us INTEGER NOT NULL DEFAULT 0`,
			`DROP TABLE broker_session`,
			`DROP TABLE broker_queue`,
			`DROP TABLE broker_retained`,
			`ALTER TABLE device DROP COLUMN pending`,
			`DELETE FROM goose_db_version WHERE version_id > 1`,
		} {
			if _, err := tx.Exec(ctx, text); err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
		return nil
	})
}

// verify reads everything back and compares it.
func (e *engine) verify(ctx context.Context) (err error) {
	c := &e.Churn
	took, err := e.open(ctx, c.config())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop()) }()
	v := &verifier{e: e, last: int64(e.log.Committed()), byDevice: make([]int, c.Devices+1)}
	v.seen = make([]bool, v.last+1)
	if v.last < c.Acked {
		return fmt.Errorf("the log ends at message %d; %d was acknowledged", v.last, c.Acked)
	}
	if err := e.log.ScanTime(ctx, history.ScanQuery{}, v.timely); err != nil {
		return err
	}
	if err := v.complete(); err != nil {
		return err
	}
	inTime := v.count
	v.position, v.logged = 0, make([]bool, v.last+1)
	if err := e.log.Scan(ctx, 1, v.inOrder); err != nil {
		return err
	}
	if err := v.inBoth(); err != nil {
		return err
	}
	for device := range v.byDevice {
		if err := v.pages(ctx, signalbox.DeviceID(device)); err != nil {
			return err
		}
	}
	s := e.log.Stats()
	if n := s.Broken.Load(); n > 0 {
		return fmt.Errorf("%d chunks are broken", n)
	}
	if n := s.Faults.Load(); n > 0 {
		return fmt.Errorf("the engine had %d faults", n)
	}
	var chunks, late float64
	if err := e.st.Reader().QueryRowContext(ctx, `SELECT COUNT(*) + 0.0, COALESCE(SUM(late), 0) + 0.0 FROM chunk`).Scan(&chunks, &late); err != nil {
		return err
	}
	e.add("found", Value{"last", "", float64(v.last)}, Value{"messages", "", float64(inTime)}, Value{"chunks", "", chunks}, Value{"late chunks", "", late},
		Value{"start", "s", took.Seconds()})
	return nil
}

// verifier compares what is found with what must be there.
type verifier struct {
	e        *engine
	last     int64
	seen     []bool // in the order of time
	logged   []bool // in that of the log
	byDevice []int
	count    int
	micros   int64
	position signalbox.Position
	body     []byte
}

// timely is called for each message in the order of time.
func (v *verifier) timely(entry *signalbox.Entry) error {
	g := int64(entry.Position)
	if err := v.same(entry); err != nil {
		return err
	}
	if v.seen[g] {
		return fmt.Errorf("message %d is there twice", g)
	}
	if entry.TimeMicros < v.micros || entry.TimeMicros == v.micros && entry.Position < v.position {
		return fmt.Errorf("message %d, of %d, comes after one of %d", g, entry.TimeMicros, v.micros)
	}
	v.seen[g], v.micros, v.position = true, entry.TimeMicros, entry.Position
	v.count++
	v.byDevice[entry.Device]++
	return nil
}

// inOrder is called for each in the order of the log.
func (v *verifier) inOrder(entry *signalbox.Entry) error {
	if entry.Position <= v.position {
		return fmt.Errorf("in the log message %d comes after %d", entry.Position, v.position)
	}
	if err := v.same(entry); err != nil {
		return err
	}
	v.position, v.logged[entry.Position] = entry.Position, true
	return nil
}

// inBoth says whether all that the order of time has is in that of the log; rows of the log may have more, which
// retention has dropped from chunks.
func (v *verifier) inBoth() error {
	for g, seen := range v.seen {
		if seen && !v.logged[g] {
			return fmt.Errorf("message %d is found in the order of time and not in that of the log", g)
		}
	}
	return nil
}

// same compares one message.
func (v *verifier) same(entry *signalbox.Entry) error {
	c, g := &v.e.Churn, int64(entry.Position)
	if g < 1 || g > v.last {
		return fmt.Errorf("there is a message %d; the last one is %d", g, v.last)
	}
	v.body = c.body(v.body[:0], g)
	if entry.Device != c.device(g) || entry.TimeMicros != c.micros(g) || string(entry.Body) != string(v.body) {
		return fmt.Errorf("message %d is %s of device %d at %d; it was %s of device %d at %d",
			g, entry.Body, entry.Device, entry.TimeMicros, v.body, c.device(g), c.micros(g))
	}
	return nil
}

// complete says whether all that retention must have left is there.
func (v *verifier) complete() error {
	c := &v.e.Churn
	from := churnBase + c.Cut*churnStep
	for g := int64(1); g <= v.last; g++ {
		if !v.seen[g] && c.micros(g) >= from {
			return fmt.Errorf("message %d of device %d is missing (the last is %d, acknowledged %d, retention up to %d)", g, c.device(g), v.last, c.Acked, c.Cut)
		}
	}
	return nil
}

// pages reads a device page by page, as people do, and row by row number.
func (v *verifier) pages(ctx context.Context, device signalbox.DeviceID) error {
	n := 0
	q := history.Query{Device: device, Limit: history.MaxPage}
	for {
		page, err := v.e.log.Page(ctx, q)
		if err != nil {
			return err
		}
		n += len(page)
		if len(page) < q.Limit {
			break
		}
		q.After = history.CursorOf(&page[len(page)-1])
	}
	if n != v.byDevice[device] {
		return fmt.Errorf("device %d has %d messages by pages and %d in the order of time", device, n, v.byDevice[device])
	}
	if n == 0 {
		return nil
	}
	at, err := v.e.log.PageAt(ctx, device, int64(n)-1, 2)
	if err == nil && len(at) != 1 {
		err = fmt.Errorf("device %d has %d messages from its row %d on, instead of 1", device, len(at), n-1)
	}
	return err
}
