package plain_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/history/plain"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// The child process that is killed is this test binary, told so by its environment.
const (
	childDir = "PLAIN_TEST_CHILD"
	childURL = "PLAIN_TEST_CHILD_URL"
)

// child appends messages and keeps the table, until it is killed. It begins to run as its parent reads «ready».
func child() int {
	ctx := context.Background()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	st, err := store.Open(ctx, store.Config{Dir: os.Getenv(childDir), URL: os.Getenv(childURL), ConnectTimeout: 20 * time.Second})
	if err != nil {
		return fail(err)
	}
	log, err := history.Open(ctx, small(), st)
	if err != nil {
		return fail(err)
	}
	table, err := plain.Open(plain.Config{Every: time.Millisecond, Rows: 150}, st, log)
	if err != nil {
		return fail(err)
	}
	if err := log.Restore(ctx, 0, func(*signalbox.Entry) error { return nil }); err != nil {
		return fail(err)
	}
	go func() { _ = log.Run(ctx, time.Second) }()
	go func() { _ = table.Run(ctx) }()
	for i := 0; ; i++ {
		e := signalbox.Entry{Kind: signalbox.EntryTelemetry, Device: signalbox.DeviceID(i%9 + 1), Body: []byte(numbered(log.Head() + 1))}
		if i%40 == 0 { // a late one, of another day
			e.TimeMicros = time.Now().Add(-time.Duration(i%4000) * time.Hour).UnixMicro()
		}
		if err := log.Append(&e, history.Soon); err != nil {
			return fail(err)
		}
		if i%100 == 99 {
			if err := log.Wait(ctx, e.Position); err != nil {
				return fail(err)
			}
			fmt.Println(e.Position, table.Through())
		}
	}
}

func numbered(p signalbox.Position) string { return fmt.Sprintf(`{"position":%d}`, p) }

// TestKill kills a process in the middle, some times, at any moment. Then the table has every message of the log, once.
func TestKill(t *testing.T) { storetest.Each(t, testKill) }

func testKill(t *testing.T, db *storetest.Database) {
	t.Helper()
	const rounds = 3
	cfg := db.Config()
	for round := range rounds {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+cfg.Dir, childURL+"="+cfg.URL)
		if cfg.Dir == "" {
			cmd.Env = append(cmd.Env, childDir+"="+t.TempDir())
		}
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Until the table has something of this run, and then a while by chance.
		var last, through, first int
		for enough := -1; enough != 0; enough-- {
			if _, err := fmt.Fscan(out, &last, &through); err != nil {
				t.Fatalf("round %d: the child ended by itself: %v", round, err)
			}
			if first == 0 {
				first = last
			}
			if enough < 0 && through > first {
				enough = 2 + rand.IntN(20)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		h := start(t, db, quick(), func(c *store.Config) { c.ConnectTimeout = patience })
		h.caughtUp(t)
		head := h.log.Head()
		if int(head) < last {
			t.Errorf("round %d: the log ends at %d, %d was acknowledged", round, head, last)
		}
		got := rows(t, db)
		if len(got) != int(head) {
			t.Errorf("round %d: %d rows of %d messages", round, len(got), head)
		}
		for i, r := range got {
			if int(r.seq) != i+1 || r.payload != numbered(r.seq) {
				t.Fatalf("round %d: row %d is %+v", round, i, r)
			}
		}
		h.stop(t)
		t.Log("round", round, "killed at", strconv.Itoa(last), "with the table at", through)
	}
}
