package app

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/history"
)

// plainRows gives what the plain table has of each device.
func plainRows(t *testing.T, a *App) map[string]int {
	t.Helper()
	rows, err := a.store.Reader().QueryContext(t.Context(), `SELECT device, COUNT(*), COUNT(DISTINCT seq), MIN(payload) FROM telemetry_named GROUP BY device`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := map[string]int{}
	for rows.Next() {
		var name, payload string
		var n, distinct int
		if err := rows.Scan(&name, &n, &distinct, &payload); err != nil {
			t.Fatal(err)
		}
		if all[name] = n; n != distinct || payload == "" {
			t.Errorf("%s has %d rows with %d positions, from %s", name, n, distinct, payload)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func waitPlain(t *testing.T, a *App) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	end := time.After(patience)
	for head := a.log.Head(); a.plain.Through() < head; {
		select {
		case <-look.C:
		case <-end:
			t.Fatalf("the plain table is at %d of %d", a.plain.Through(), head)
		}
	}
}

// TestPlainMode switches the plain table on and off: it has what history has, after a restore and after retention too.
func TestPlainMode(t *testing.T) {
	cfg, log := testConfig(filepath.Join(t.TempDir(), "hub")), &written{}
	a := open(t, cfg, log)
	past(t, a, "box", "box", "station") // 4,000 messages each, two days old
	if a.plain != nil {
		t.Error("there is a plain table that nobody wants")
	}
	a.tellPlain(t.Context())
	if strings.Contains(log.String(), "plain") {
		t.Errorf("without one the hub tells of it: %s", log)
	}
	closeApp(t, a)

	cfg.History.Mode = historyPlain
	a = open(t, cfg, log)
	waitPlain(t, a)
	if got := fmt.Sprint(plainRows(t, a)); got != "map[d0:4000 d1:4000 d2:4000]" {
		t.Errorf("switched on, the table has %s", got)
	}
	w := httptest.NewRecorder()
	a.LocalAPI().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{"signalbox_plain_rows_total 12000", "signalbox_plain_behind_entries 0", "signalbox_plain_faults_total 0"} {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			t.Errorf("metrics do not say %s", line)
		}
	}

	// A backup has the history and not the table, which is made anew.
	w = httptest.NewRecorder()
	a.LocalAPI().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/backup", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("the backup gives %d", w.Code)
	}
	other := testConfig(filepath.Join(t.TempDir(), "restored"))
	other.History.Mode = historyPlain
	report, err := Restore(t.Context(), Options{Config: other}, bytes.NewReader(w.Body.Bytes()), func(bool, int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range report.Tables {
		if table.Name == "telemetry" {
			t.Error("the backup has the plain table")
		}
	}
	b := open(t, other, log)
	waitPlain(t, b)
	if got := fmt.Sprint(plainRows(t, b)); got != "map[d0:4000 d1:4000 d2:4000]" {
		t.Errorf("restored, the table has %s", got)
	}
	closeApp(t, b)
	closeApp(t, a)

	// Rules by age, by size, and a device that is removed.
	cfg.History.Keep = []Keep{{Scope: keepType, Name: "station", Age: time.Hour}, {Scope: keepDevice, Name: "d1", Bytes: 1}}
	a = open(t, cfg, log)
	for i := range 3 {
		e := signalbox.Entry{Device: signalbox.DeviceID(i + 1), Kind: signalbox.EntryTelemetry, Body: []byte(`{"n":0}`)}
		if err := a.log.Append(&e, history.Now); err != nil {
			t.Fatal(err)
		}
	}
	waitPlain(t, a)
	run := waitRun(t, a.retention, "anna")
	if run.State != api.RetentionDone || run.ReclaimedBytes != a.retention.reclaimed.Load() {
		t.Errorf("the run is %+v\n%s", run, log)
	}
	got := plainRows(t, a)
	page, err := a.log.Page(t.Context(), history.Query{Device: 2, Limit: history.MaxPage})
	if err != nil {
		t.Fatal(err)
	}
	left := int64(got["d0"] + got["d1"] + got["d2"])
	if at := len(run.Dropped) - 1; run.PlainRows != 12003-left || run.Dropped[at].Of != api.RetentionPlain || run.Dropped[at].PlainRows != run.PlainRows || a.retention.State().Totals.PlainRows != run.PlainRows {
		t.Errorf("%d rows are left, and the account says %+v", left, run)
	}
	if got["d0"] != 4001 || got["d1"] != len(page) || got["d1"] == 4001 || got["d2"] != 1 {
		t.Errorf("after retention the table has %v, and history %d of d1", got, len(page))
	}
	if !strings.Contains(log.String(), "history was dropped as history.keep says") {
		t.Errorf("nobody tells of what was dropped: %s", log)
	}
	closeApp(t, a)

	cfg.History.Mode = historyChunks
	a = open(t, cfg, log)
	defer closeApp(t, a)
	a.tellPlain(t.Context())
	if !strings.Contains(log.String(), "it gets nothing new") {
		t.Errorf("switched off, nobody tells of the table that is left: %s", log)
	}
}
