package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox/client"
)

// TestRetention drops old history by hand, of a directory on which no hub runs.
func TestRetention(t *testing.T) {
	s := newStation(t)
	var file strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&file, `{"device":"old","time":%d,"object":{"n":%d}}`+"\n", 1_704_067_200_000+i, i)
	}
	name := filepath.Join(t.TempDir(), "old.ndjson")
	if err := os.WriteFile(name, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("import", name, "--create", "--type", "box").want(t, ExitOK)
	s.run("history", "retention").want(t, ExitOK, "no rules", "No hub runs")
	s.run("history", "retention", "--run").want(t, ExitOK, "nothing was dropped")

	config := filepath.Join(s.dir, "signalbox.yaml")
	if err := os.WriteFile(config, []byte("history:\n  keep: [\"type:box 30d\", \"device:old 1GiB 60d\", \"1d\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("device", "add", "new", "--type", "box").want(t, ExitOK)
	s.run("history", "retention").want(t, ExitOK, "type:box 30d", "device old", "all others", "Since ")
	s.serve()
	// What is in no chunk yet stays; chunks are written together with what comes.
	deadline := time.Now().Add(patience)
	dropped := result{}
	for !strings.Contains(dropped.out, " chunks dropped (") {
		if time.Now().After(deadline) {
			t.Fatalf("nothing was dropped: %s", dropped.out)
		}
		s.run("send", "old", "restart", "--ttl", "1h", "--replace").want(t, ExitOK)
		dropped = s.run("history", "retention", "--run").want(t, ExitOK)
	}
	dropped.want(t, ExitOK, "device:old", "type box", "messages in")
	state := decode[client.Retention](t, s.run("history", "retention", "--json").want(t, ExitOK))
	if len(state.Rules) != 3 || state.Rules[0].Devices != 1 || state.Rules[1].Devices != 1 || state.Totals.Messages == 0 || state.Totals.Runs < 2 || len(state.Runs) == 0 {
		t.Errorf("rules %+v, totals %+v", state.Rules, state.Totals)
	}
	run := decode[client.RetentionRun](t, s.run("history", "retention", "--run", "--json").want(t, ExitOK))
	if run.State != "done" || run.AskedBy != "local" {
		t.Errorf("run %+v", run)
	}
	s.run("history", "retention", "old").want(t, ExitUsage)
	// A device may be called so.
	s.run("device", "add", "retention", "--type", "box").want(t, ExitOK)
	s.run("history", "--", "retention").want(t, ExitOK)
}

// TestRetentionShown has a running hub, which remembers what it did.
func TestRetentionShown(t *testing.T) {
	s := newStation(t)
	s.serve()
	s.run("history", "retention", "--run").want(t, ExitOK, "nothing was dropped")
	s.run("history", "retention").want(t, ExitOK, "The last run was", "the next run is at", "ASKED BY", "local", "nothing to drop")
}

// TestAmountText: what went of the plain table is told of, with chunks and without.
func TestAmountText(t *testing.T) {
	for _, tt := range []struct {
		amount    client.RetentionAmount
		reclaimed int64
		want      string
	}{
		{client.RetentionAmount{}, 0, "nothing was dropped"},
		{client.RetentionAmount{PlainRows: 14955}, 1 << 20, "14955 rows of the plain table dropped, 1.0 MiB given back to the system"},
		{client.RetentionAmount{Chunks: 1, Messages: 9, Bytes: 100, PlainDays: 2, PlainRows: 3}, 0, "9 messages in 1 chunks dropped (0.1 KiB), 2 days and 3 rows of the plain table dropped"},
	} {
		if got := amountText(&tt.amount, tt.reclaimed); got != tt.want {
			t.Errorf("%+v is told as %q, want %q", tt.amount, got, tt.want)
		}
	}
	cells := partCells(&client.RetentionPart{Of: "plain", RetentionAmount: client.RetentionAmount{PlainDays: 2}})
	if got := strings.Join(cells, "|"); got != "|plain table: 2 days|||" {
		t.Errorf("the part is told as %q", got)
	}
}
