package plain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/history/plain"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// patience is how long a test waits for what should happen within a second.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(childDir) != "" {
		os.Exit(child())
	}
	os.Exit(storetest.Main(m))
}

// said is what a logger wrote.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// hub is a log over a real database, and the plain table if that is switched on.
type hub struct {
	db    *storetest.Database
	st    *storetest.Opened
	log   *history.Log
	table *plain.Table
	said  *said
	ends  []func() error // the first ends last
}

// small makes many chunks of few messages.
func small() history.Config {
	return history.Config{RowBytes: 4 << 10, TailBytes: 64 << 10, TailEntries: 900, TailRows: 100}
}

func quick() *plain.Config { return &plain.Config{Every: 10 * time.Millisecond} }

// start opens the log, and the table if cfg is not nil.
func start(t *testing.T, db *storetest.Database, cfg *plain.Config, change ...func(*store.Config)) *hub {
	t.Helper()
	h := &hub{db: db, st: db.Open(t, change...), said: new(said)}
	var err error
	if h.log, err = history.Open(t.Context(), small(), h.st.Store); err != nil {
		t.Fatal(err)
	}
	if cfg != nil {
		own := *cfg
		own.Logger = slog.New(slog.NewTextHandler(h.said, nil))
		if h.table, err = plain.Open(own, h.st.Store, h.log); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.log.Restore(t.Context(), 0, func(*signalbox.Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	h.run(func(ctx context.Context) error { return h.log.Run(ctx, patience) })
	if h.table != nil {
		h.run(h.table.Run)
	}
	t.Cleanup(func() { h.stop(t) })
	return h
}

func (h *hub) run(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	h.ends = append(h.ends, func() error { cancel(); return <-done })
}

// stop ends everything; a second time it does nothing.
func (h *hub) stop(t *testing.T) {
	t.Helper()
	for _, end := range slices.Backward(h.ends) {
		if err := end(); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	if h.ends != nil && h.table != nil {
		if err := h.table.Close(); err != nil {
			t.Error(err)
		}
	}
	h.ends = nil
	if err := h.st.Close(); err != nil {
		t.Error(err)
	}
}

// want is a row that should be there.
type want struct {
	device  signalbox.DeviceID
	micros  int64
	seq     signalbox.Position
	payload string
}

// put appends an entry, micros 0 being now.
func (h *hub) put(t *testing.T, kind signalbox.EntryKind, device signalbox.DeviceID, micros int64, body string) want {
	t.Helper()
	e := signalbox.Entry{Kind: kind, Device: device, TimeMicros: micros, Body: []byte(body)}
	for {
		err := h.log.Append(&e, history.Soon)
		if err == nil {
			return want{device, e.TimeMicros, e.Position, body}
		}
		if !errors.Is(err, history.ErrFull) {
			t.Fatal(err)
		}
		h.committed(t)
	}
}

func (h *hub) committed(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h.log.Wait(ctx, h.log.Head()); err != nil {
		t.Fatal(err)
	}
}

// caughtUp waits until the table has everything.
func (h *hub) caughtUp(t *testing.T) {
	t.Helper()
	h.committed(t)
	head := h.log.Head()
	until(t, func() string {
		if h.table.Through() >= head {
			return ""
		}
		return fmt.Sprintf("the table is at %d of %d: %s", h.table.Through(), head, h.said)
	})
}

// until waits for something that happens in the background.
func until(t *testing.T, missing func() string) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	end := time.After(patience)
	for {
		why := missing()
		if why == "" {
			return
		}
		select {
		case <-look.C:
		case <-end:
			t.Fatal(why)
		}
	}
}

// rows reads the table as people do, in order of the positions.
func rows(t *testing.T, db *storetest.Database) (all []want) {
	t.Helper()
	micros := map[storetest.Kind]string{
		storetest.SQLite:     `CAST(strftime('%s', ts) AS INTEGER) * 1000000 + CAST(substr(ts, 21) AS INTEGER)`,
		storetest.MariaDB:    `TIMESTAMPDIFF(MICROSECOND, '1970-01-01', ts)`,
		storetest.PostgreSQL: `(EXTRACT(EPOCH FROM ts) * 1000000)::bigint`,
	}[db.Kind]
	payload := "payload"
	if db.Kind == storetest.MariaDB {
		payload = "CAST(payload AS BINARY)" // the connection is latin1
	}
	found, err := db.SQL(t).QueryContext(t.Context(), `SELECT device, `+micros+`, seq, `+payload+` FROM telemetry ORDER BY seq`)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	for found.Next() {
		var w want
		var device, seq int64
		if err := found.Scan(&device, &w.micros, &seq, &w.payload); err != nil {
			t.Fatal(err)
		}
		w.device, w.seq = signalbox.DeviceID(device), signalbox.Position(seq)
		all = append(all, w)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// same says how two lists differ.
func same(t *testing.T, what string, got, wanted []want) {
	t.Helper()
	for i := range min(len(got), len(wanted)) {
		if got[i] != wanted[i] {
			t.Fatalf("%s: row %d is %.200v; want %.200v", what, i, got[i], wanted[i])
		}
	}
	if len(got) != len(wanted) {
		t.Fatalf("%s: there are %d rows, want %d", what, len(got), len(wanted))
	}
}

// TestFollow: what comes becomes rows soon, telemetry and imports and nothing else.
func TestFollow(t *testing.T) { storetest.Each(t, testFollow) }

func testFollow(t *testing.T, db *storetest.Database) {
	t.Helper()
	h := start(t, db, quick())
	var all []want
	for i := range 3000 {
		switch i % 10 {
		case 7:
			h.put(t, signalbox.EntryPresence, 1, 0, `{"presence":"online"}`)
		case 8:
			all = append(all, h.put(t, signalbox.EntryImported, 2, 1_700_000_000_000_000+int64(i)*999_983, fmt.Sprintf(`{"i": %d}`, i)))
		default:
			all = append(all, h.put(t, signalbox.EntryTelemetry, signalbox.DeviceID(i%5+1), 0, fmt.Sprintf(`{"i":%d,"ü":"%d"}`, i, i)))
		}
		if i%500 == 0 {
			h.caughtUp(t)
			same(t, "meanwhile", rows(t, db), all)
		}
	}
	h.caughtUp(t)
	same(t, "at the end", rows(t, db), all)
	if got := h.table.Stats().Rows.Load(); got != int64(len(all)) || h.table.Behind() != 0 {
		t.Errorf("%d rows are counted, %d behind; want %d, 0", got, h.table.Behind(), len(all))
	}
}

// TestSwitch: switched on late it takes all that is kept, out of chunks too; while it is off nothing is written; switched
// on again it goes on.
func TestSwitch(t *testing.T) { storetest.Each(t, testSwitch) }

func testSwitch(t *testing.T, db *storetest.Database) {
	t.Helper()
	var all []want
	more := func(h *hub, n int) {
		for i := range n {
			all = append(all, h.put(t, signalbox.EntryTelemetry, signalbox.DeviceID(i%7+1), 0, fmt.Sprintf(`{"n":%d}`, len(all))))
			if i%50 == 0 {
				h.put(t, signalbox.EntryCommand, 1, 0, `{}`)
			}
		}
		h.committed(t)
	}
	h := start(t, db, nil)
	more(h, 6000)
	until(t, func() string {
		if h.log.Stats().ChunkMessages.Load() > 3000 {
			return ""
		}
		return "no chunks are made"
	})
	h.stop(t)

	cfg := quick()
	cfg.Rows = 100
	h = start(t, db, cfg)
	more(h, 500)
	h.caughtUp(t)
	same(t, "switched on", rows(t, db), all)
	if !strings.Contains(h.said.String(), "the plain table was made") {
		t.Errorf("the log says %s", h.said)
	}
	h.stop(t)
	was := len(all)

	h = start(t, db, nil)
	more(h, 2000)
	h.stop(t)
	same(t, "switched off", rows(t, db), all[:was])

	h = start(t, db, cfg)
	more(h, 10)
	h.caughtUp(t)
	same(t, "switched on again", rows(t, db), all)
	if got := h.table.Stats().Rows.Load(); got != int64(len(all)-was) {
		t.Errorf("%d rows were written, want the %d new ones", got, len(all)-was)
	}
}

// TestPayloads: what the device sent stands there byte for byte.
func TestPayloads(t *testing.T) { storetest.Each(t, testPayloads) }

func testPayloads(t *testing.T, db *storetest.Database) {
	t.Helper()
	bodies := []string{
		`{}`, `{"a":1}`, ` { "white" : [ 1 , 2 ] ,` + "\t\n" + `"space":null } `,
		`{"same":1,"same":2,"same":3}`, `{"z":1,"a":2,"m":{"y":1,"b":2}}`,
		`{"n":15.0,"m":1e400,"k":-0,"l":-0.0,"j":1E+5,"i":123456789012345678901234567890.123456789012345678901234567890}`,
		`{"s":"\u0000\u001f\\\/\"\b","lone":"\ud800 \udfff \udbff\u0041","pair":"\ud83d\ude00"}`,
		`{"ключ":"значение","键":"值","emoji":"😀👩‍👩‍👧","e":"é é","nonchar":"` + "\uffff\ufffe\U0010ffff" + `"}`,
		"{\"line\":\"\u2028\u2029\u0085\x7f\"}", `{"":"","'":"''","` + "`" + `":"%s ? $1 :x @y --"}`,
		`{"trailing":"spaces   "}`, `{"long":"` + strings.Repeat("ä\\n0", 60_000) + `"}`, `{"deep":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
	}
	h := start(t, db, quick())
	var all []want
	for _, body := range bodies {
		all = append(all, h.put(t, signalbox.EntryTelemetry, 1, 0, body))
	}
	bad := []string{"no JSON", "{\"not\":\"\xff\xfe\"}", "{\"nul\":\"\x00\"}", ""}
	for _, body := range bad {
		h.put(t, signalbox.EntryImported, 1, 0, body)
		all = append(all, h.put(t, signalbox.EntryTelemetry, 2, 0, `{"next":1}`))
	}
	h.caughtUp(t)
	same(t, "payloads", rows(t, db), all)
	if got := h.table.Stats().Skipped.Load(); got != int64(len(bad)) || strings.Count(h.said.String(), "left out") != len(bad) {
		t.Errorf("%d are left out, want %d: %s", got, len(bad), h.said)
	}
}

// TestRefused: a message that is too large for the server is left out alone.
func TestRefused(t *testing.T) { storetest.Each(t, testRefused) }

func testRefused(t *testing.T, db *storetest.Database) {
	t.Helper()
	h := start(t, db, quick())
	var all []want
	add := func(body string, taken bool) {
		w := h.put(t, signalbox.EntryTelemetry, 1, 0, body)
		if h.committed(t); taken {
			all = append(all, w)
		}
	}
	for i := range 50 {
		add(fmt.Sprintf(`{"n":%d}`, i), true)
		if i == 20 {
			add(`{"large":"`+strings.Repeat("x", 17<<20)+`"}`, db.Kind != storetest.MariaDB)
			add(`{"deep":`+strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+`}`, true)
		}
	}
	h.caughtUp(t)
	same(t, "the others", rows(t, db), all)
	if got := h.table.Stats().Skipped.Load(); got != int64(52-len(all)) {
		t.Errorf("%d are left out: %s", got, h.said)
	}
}

// TestView: names of devices, and each database's functions for times and JSON.
func TestView(t *testing.T) { storetest.Each(t, testView) }

func testView(t *testing.T, db *storetest.Database) {
	t.Helper()
	queries := map[storetest.Kind]string{
		storetest.SQLite:     `SELECT device, type, strftime('%Y-%m-%d %H', ts), avg(payload ->> 'temp') FROM telemetry_named WHERE device = 'esp01' AND ts >= '2024-05-01' AND ts < '2024-05-02' GROUP BY 1, 2, 3`,
		storetest.MariaDB:    `SELECT device, type, date_format(ts, '%Y-%m-%d %H'), avg(json_value(payload, '$.temp')) FROM telemetry_named WHERE device = 'esp01' AND ts >= '2024-05-01' AND ts < '2024-05-02' GROUP BY 1, 2, 3`,
		storetest.PostgreSQL: `SELECT device, type, to_char(date_trunc('hour', ts, 'UTC') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24'), avg((payload ->> 'temp')::float8) FROM telemetry_named WHERE device = 'esp01' AND ts >= '2024-05-01Z' AND ts < '2024-05-02Z' GROUP BY 1, 2, 3`,
	}
	h := start(t, db, quick())
	err := h.st.Update(t.Context(), func(tx *store.Tx) error {
		for id, name := range map[int]string{1: "esp01", 2: "esp02"} {
			if _, err := tx.Exec(t.Context(), `INSERT INTO device (id, name, type, secret_kind, secret, created_ms) VALUES (?,?,?,?,?,?)`, id, name, "box", 1, []byte("x"), 1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	for i := range 4 {
		for d := range 2 {
			h.put(t, signalbox.EntryImported, signalbox.DeviceID(d+1), at.Add(time.Duration(i)*time.Second).UnixMicro(), fmt.Sprintf(`{"temp":%d}`, 20+i))
		}
	}
	h.put(t, signalbox.EntryImported, 1, at.AddDate(0, 0, 1).UnixMicro(), `{"temp":99}`)
	h.caughtUp(t)
	var name, kind, hour string
	var avg float64
	if err := db.SQL(t).QueryRowContext(t.Context(), queries[db.Kind]).Scan(&name, &kind, &hour, &avg); err != nil {
		t.Fatal(err)
	}
	if name != "esp01" || kind != "box" || hour != "2024-05-01 12" || avg != 21.5 {
		t.Errorf("the view gives %s, %s, %s, %g", name, kind, hour, avg)
	}
}

// TestDropped: whoever drops the table, or takes it back, gets it anew; a table of somebody else stays.
func TestDropped(t *testing.T) { storetest.Each(t, testDropped) }

func testDropped(t *testing.T, db *storetest.Database) {
	t.Helper()
	h := start(t, db, quick())
	var all []want
	add := func(n int) {
		for range n {
			all = append(all, h.put(t, signalbox.EntryTelemetry, 1, 0, fmt.Sprintf(`{"n":%d}`, len(all))))
		}
		h.committed(t)
	}
	add(100)
	h.caughtUp(t)
	sql := db.SQL(t)
	for _, query := range []string{`DROP VIEW telemetry_named`, `DROP TABLE telemetry`} {
		if _, err := sql.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	add(50)
	until(t, func() string {
		if h.table.Through() == h.log.Head() && h.table.Stats().Faults.Load() > 0 {
			return ""
		}
		return "it is not made anew: " + h.said.String()
	})
	same(t, "made anew", rows(t, db), all)
	// Somebody else has moved it.
	if _, err := sql.ExecContext(t.Context(), `UPDATE meta SET value = '120' WHERE name = 'plain_through'`); err != nil {
		t.Fatal(err)
	}
	if _, err := sql.ExecContext(t.Context(), `DELETE FROM telemetry WHERE seq > 120`); err != nil {
		t.Fatal(err)
	}
	add(50)
	h.caughtUp(t)
	same(t, "set back", rows(t, db), all)
	h.stop(t)
	for _, form := range []string{"0 20240101", "making"} { // another, or cut off
		if _, err := sql.ExecContext(t.Context(), `UPDATE meta SET value = '`+form+`' WHERE name = 'plain_form'`); err != nil {
			t.Fatal(err)
		}
		h = start(t, db, quick())
		add(1)
		h.caughtUp(t)
		same(t, "of the form "+form, rows(t, db), all)
		h.stop(t)
	}
	for _, query := range []string{`DELETE FROM meta WHERE name IN ('plain_form', 'plain_through')`, `DROP VIEW telemetry_named`, `DROP TABLE telemetry`, `CREATE TABLE telemetry (x INT)`, `INSERT INTO telemetry VALUES (7)`} {
		if _, err := sql.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	h = start(t, db, quick())
	until(t, func() string {
		if strings.Contains(h.said.String(), "has a table or view telemetry already") {
			return ""
		}
		return "another's table is not told of: " + h.said.String()
	})
	var x int
	if err := sql.QueryRowContext(t.Context(), `SELECT x FROM telemetry`).Scan(&x); err != nil || x != 7 {
		t.Errorf("another's table has %d, %v", x, err)
	}
}
