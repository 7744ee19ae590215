package history_test

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// wantPlace checks where a cursor leads.
func wantPlace(t *testing.T, b *bench, cursor string, want history.Place) {
	t.Helper()
	if got, err := b.log.Place(cursor); err != nil || got != want {
		t.Errorf("%s leads to %+v, %v; want %+v", cursor, got, err, want)
	}
}

// drop ends everything as a kill does: what is not committed is lost.
func (b *bench) drop(t *testing.T) {
	t.Helper()
	if b.stop != nil {
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.st.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCursor(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir, history.Config{})
	shape := regexp.MustCompile(`^[a-z0-9]{6,10}-[0-9]+$`)
	for p := range signalbox.Position(5) {
		if c := b.log.Cursor(p); !shape.MatchString(c) || !strings.HasSuffix(c, fmt.Sprintf("-%d", p)) || string(b.log.AppendCursor([]byte("x"), p)) != "x"+c {
			t.Errorf("the cursor of %d is %s", p, c)
		}
	}
	wantPlace(t, b, b.log.Cursor(0), history.Place{})
	wantPlace(t, b, b.log.Cursor(1), history.Place{Fate: history.Lost})
	for range 10 {
		b.append(t, telemetry(1, `{}`), history.Now)
	}
	b.wait(t, 10)
	var cursors []string
	for p := range signalbox.Position(11) {
		cursors = append(cursors, b.log.Cursor(p))
	}
	b = b.reopen(t, dir, history.Config{}, 0)
	b.wait(t, b.append(t, telemetry(1, `{}`), history.Now).Position)
	for p, c := range cursors {
		wantPlace(t, b, c, history.Place{Position: signalbox.Position(p)})
		if again := b.log.Cursor(signalbox.Position(p)); again != c {
			t.Errorf("position %d was %s and is %s", p, c, again)
		}
	}
	if a, z := b.log.Cursor(10), b.log.Cursor(11); a[:8] == z[:8] {
		t.Errorf("%s and %s are of one epoch", a, z)
	}
	wantPlace(t, b, "zzzzzzzz-3", history.Place{Fate: history.Foreign})
	if n := testing.AllocsPerRun(100, func() { cursors[0] = b.log.Cursor(11) }); n > 1 {
		t.Errorf("a cursor takes %v allocations", n)
	}
	buf := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { buf = b.log.AppendCursor(buf[:0], 11) }); n != 0 {
		t.Errorf("AppendCursor takes %v allocations", n)
	}
}

func TestPlaceRefuses(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{})
	for _, cursor := range []string{
		"", "-", "17", "abcdefgh", "abcdefgh-", "-17", "abcdefgh-x", "abcdefgh-1 ", "abcdefgh--1", "abcdefgh-+1", "abcdefgh-01", "abcdefgh-1-2", "Abcdefgh-1",
		"abcde-1", "abcdefghijk-1", "abcdefgh-9223372036854775808", "abc\x00efgh-1", "äbcdefg-1", strings.Repeat("a", 1<<16),
	} {
		_, err := b.log.Place(cursor)
		if signalbox.KindOf(err) != signalbox.KindInvalid || signalbox.CodeOf(err) != "invalid_cursor" || len(err.Error()) > 500 {
			t.Errorf("%.50q: %v", cursor, err)
		}
	}
	wantPlace(t, b, "abcdefgh-9223372036854775807", history.Place{Fate: history.Foreign})
}

// TestLostPlace: what was announced and not on disk when the hub was killed is known as lost,
// though its positions are given again.
func TestLostPlace(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir, history.Config{})
	for range 5 {
		b.append(t, telemetry(1, `{}`), history.Now)
	}
	b.wait(t, 5)
	b.drop(t)

	b = open(t, dir, history.Config{}) // it does not run: nothing is committed
	b.restore(t, 0)
	for range 3 {
		b.append(t, telemetry(1, `{"lost":1}`), history.Now)
	}
	good, lost := b.log.Cursor(5), b.log.Cursor(7)
	wantPlace(t, b, lost, history.Place{Position: 7})
	b.drop(t)

	b = open(t, dir, history.Config{})
	b.restore(t, 0)
	b.run(t, patience)
	for range 10 {
		b.append(t, telemetry(1, `{}`), history.Now)
	}
	b.wait(t, 15)
	for range 2 {
		wantPlace(t, b, good, history.Place{Position: 5})
		wantPlace(t, b, lost, history.Place{Position: 5, Fate: history.Lost})
		wantPlace(t, b, b.log.Cursor(7), history.Place{Position: 7})
		b = b.reopen(t, dir, history.Config{}, 15)
	}
}

// TestOpenedForNothing: opening the log again and again does not push out the epochs that
// matter, and too many are forgotten, the oldest first.
func TestOpenedForNothing(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir, history.Config{})
	b.wait(t, b.append(t, telemetry(1, `{}`), history.Now).Position)
	first := b.log.Cursor(1)
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	reopen := func() {
		t.Helper()
		var err error
		if b.log, err = history.Open(t.Context(), history.Config{}, b.st); err != nil {
			t.Fatal(err)
		}
	}
	for range 300 {
		reopen()
	}
	wantPlace(t, b, first, history.Place{Position: 1})
	text, err := b.st.Meta(t.Context(), "log_epochs")
	if err != nil || strings.Count(text, ":") != 9 {
		t.Errorf("the epochs are %s, %v", text, err)
	}

	// As many as are kept, and one more.
	names := make([]string, 256)
	for i := range names {
		names[i] = fmt.Sprintf("epoch%03d:1", i)
	}
	setMeta(t, b.st, strings.Join(names, ","))
	if b.log, err = history.Open(t.Context(), history.Config{}, b.st); err != nil {
		t.Fatal(err)
	}
	wantPlace(t, b, "epoch000-1", history.Place{Fate: history.Foreign})
	wantPlace(t, b, "epoch255-1", history.Place{Position: 1})
	if text, err = b.st.Meta(t.Context(), "log_epochs"); err != nil || strings.Count(text, ":") != 256 || len(text) > 256*32 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

func setMeta(t *testing.T, st *store.Store, epochs string) {
	t.Helper()
	if err := st.Update(t.Context(), func(tx *store.Tx) error { return tx.SetMeta(t.Context(), "log_epochs", epochs) }); err != nil {
		t.Fatal(err)
	}
}

// TestRestoredEpochs: with the epochs of an older backup, what came behind it is lost.
func TestRestoredEpochs(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir, history.Config{})
	for range 5 {
		b.append(t, telemetry(1, `{}`), history.Now)
	}
	b.wait(t, 5)
	saw := "behindit-9" // what the hub of the backup has shown after it
	setMeta(t, b.st, "before00:1,behindit:3")
	b = b.reopen(t, dir, history.Config{}, 5)
	for range 10 {
		b.append(t, telemetry(1, `{}`), history.Now)
	}
	b.wait(t, 15)
	wantPlace(t, b, saw, history.Place{Position: 5, Fate: history.Lost})
	wantPlace(t, b, "behindit-5", history.Place{Position: 5})
	wantPlace(t, b, "before00-2", history.Place{Position: 2})
	wantPlace(t, b, "before00-3", history.Place{Position: 2, Fate: history.Lost})

	// The database is behind its own list: a log that was cut.
	setMeta(t, b.st, "before00:1,behindit:100")
	b = b.reopen(t, dir, history.Config{}, 15)
	b.wait(t, b.append(t, telemetry(1, `{}`), history.Now).Position)
	wantPlace(t, b, "behindit-100", history.Place{Position: 15, Fate: history.Lost})
	wantPlace(t, b, "before00-20", history.Place{Position: 15, Fate: history.Lost})

	for _, broken := range []string{"x", "before00:1,", "before00:x", "before00:7,behindit:3", "BEFORE00:1"} {
		setMeta(t, b.st, broken)
		if _, err := history.Open(t.Context(), history.Config{}, b.st); err == nil || !strings.Contains(err.Error(), "log_epochs") {
			t.Errorf("%q: %v", broken, err)
		}
	}
}

// TestPlaceAfterARestore: a cursor behind the backup leads to its end, and is lost.
func TestPlaceAfterARestore(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{})
	for range 5 {
		b.append(t, telemetry(1, `{}`), history.Now)
	}
	b.wait(t, 5)
	var backup strings.Builder
	if _, err := b.st.Backup(t.Context(), &backup, store.BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		b.append(t, telemetry(1, `{}`), history.Now)
	}
	b.wait(t, 10)
	old := []string{b.log.Cursor(0), b.log.Cursor(5), b.log.Cursor(6), b.log.Cursor(10)}
	b.drop(t)
	dir := t.TempDir()
	if _, err := store.Restore(t.Context(), storetest.Config(t, dir), strings.NewReader(backup.String()), store.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir, history.Config{})
	b.restore(t, 0)
	b.run(t, patience)
	for range 10 {
		b.append(t, telemetry(1, `{}`), history.Now)
	}
	b.wait(t, 15)
	for i, want := range []history.Place{{}, {Position: 5}, {Position: 5, Fate: history.Lost}, {Position: 5, Fate: history.Lost}} {
		wantPlace(t, b, old[i], want)
	}
	wantPlace(t, b, b.log.Cursor(10), history.Place{Position: 10})
}

// TestEpochOfUnknownOutcome: the connection is cut while the epoch is being stored.
func TestEpochOfUnknownOutcome(t *testing.T) {
	if onFile() {
		return // there is no connection
	}
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprint("stored ", stored), func(t *testing.T) {
			db := storetest.New(t, storetest.Running())
			p := storetest.NewProxy(t, db)
			cfg := db.Config()
			cfg.URL = db.URLAt(p)
			st, err := store.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			b := &bench{st: st}
			defer func() { _ = st.Close() }()
			p.Order(storetest.Cut{Text: "COMMIT", After: stored})
			if b.log, err = history.Open(t.Context(), history.Config{}, st); err != nil {
				t.Fatal(err)
			}
			b.restore(t, 0)
			b.run(t, patience)
			shown := b.append(t, telemetry(1, `{}`), history.Now)
			b.wait(t, shown.Position)
			cursor := b.log.Cursor(shown.Position)
			if err := b.stop(); err != nil {
				t.Fatal(err)
			}
			if b.log, err = history.Open(t.Context(), history.Config{}, st); err != nil {
				t.Fatal(err)
			}
			wantPlace(t, b, cursor, history.Place{Position: shown.Position})
		})
	}
}

// TestEpochThatCannotBeStored: the log opens all the same, and the epoch is stored with the
// first entry.
func TestEpochThatCannotBeStored(t *testing.T) {
	if !onFile() {
		return // triggers have a form of their own in each database
	}
	dir := t.TempDir()
	b := start(t, dir, history.Config{})
	b.wait(t, b.append(t, telemetry(1, `{}`), history.Now).Position)
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	change := func(query string) {
		t.Helper()
		err := b.st.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), query)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	change(`CREATE TRIGGER full BEFORE UPDATE ON meta WHEN NEW.name = 'log_epochs' BEGIN SELECT RAISE(ABORT, 'no room'); END`)
	var said strings.Builder
	var err error
	if b.log, err = history.Open(t.Context(), history.Config{Logger: slog.New(slog.NewTextHandler(&said, nil))}, b.st); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "no room") {
		t.Errorf("it says %q", said.String())
	}
	b.restore(t, 0)
	shown := b.append(t, telemetry(1, `{}`), history.Now)
	cursor := b.log.Cursor(shown.Position)
	wantPlace(t, b, cursor, history.Place{Position: shown.Position})
	change(`DROP TRIGGER full`)
	b.run(t, patience)
	b.wait(t, shown.Position)
	for range 2 {
		b = b.reopen(t, dir, history.Config{}, 0)
		wantPlace(t, b, cursor, history.Place{Position: shown.Position})
	}
}

func FuzzPlace(f *testing.F) {
	b := start(f, f.TempDir(), history.Config{})
	for range 3 {
		b.append(f, telemetry(1, `{}`), history.Now)
	}
	b.wait(f, 3)
	for _, s := range []string{b.log.Cursor(0), b.log.Cursor(2), b.log.Cursor(9), "", "-", "abcdefgh-17", "abcdefgh-00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, cursor string) {
		place, err := b.log.Place(cursor)
		switch {
		case err != nil && signalbox.CodeOf(err) != "invalid_cursor":
			t.Errorf("%q: %v", cursor, err)
		case err == nil && place.Fate == history.Known && b.log.Cursor(place.Position) != cursor:
			t.Errorf("%q is %+v, whose cursor is %q", cursor, place, b.log.Cursor(place.Position))
		}
	})
}

func BenchmarkCursor(b *testing.B) {
	l := start(b, b.TempDir(), history.Config{})
	buf := make([]byte, 0, 64)
	for b.Loop() {
		buf = l.log.AppendCursor(buf[:0], 123_456_789)
	}
}
