package app

import (
	"context"
	"fmt"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/history"
	"signalbox/internal/registry"
)

// past gives devices and some chunks of old history of each.
func past(t *testing.T, a *App, kinds ...string) {
	t.Helper()
	var list []registry.NewDevice
	for i, kind := range kinds {
		list = append(list, registry.NewDevice{Name: fmt.Sprintf("d%d", i), Type: kind})
	}
	if _, err := a.devices.AddAll(t.Context(), list, nil); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour).UnixMicro()
	for i := range 4000 {
		for k := range kinds {
			id := a.devices.Find(fmt.Sprintf("d%d", k)).ID
			e := signalbox.Entry{Device: id, Kind: signalbox.EntryImported, TimeMicros: old + int64(i), Body: fmt.Appendf(nil, `{"n":%d}`, i)}
			for a.log.Append(&e, history.Soon) != nil {
				if err := a.log.Wait(t.Context(), a.log.Head()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := a.log.Wait(t.Context(), a.log.Head()); err != nil {
		t.Fatal(err)
	}
	// Chunks are written with the next commits.
	tick, deadline := time.NewTicker(5*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for a.log.Stats().Chunks.Load() < int64(3*len(kinds)) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("there are %d chunks", a.log.Stats().Chunks.Load())
		}
	}
}

func waitRun(t *testing.T, r *retainer, by string) api.RetentionRun {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	run, err := r.Run(ctx, r.Start(by).ID)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// TestRetentionAccount: a run tells what it dropped by which rule, and the totals survive.
func TestRetentionAccount(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.History.Keep = []Keep{{Scope: keepType, Name: "box", Age: time.Hour}, {Scope: keepDevice, Name: "d2", Bytes: 1}, {Scope: keepType, Name: "nothing", Age: time.Hour}}
	log := &written{}
	a := open(t, cfg, log)
	past(t, a, "box", "box", "station", "station")
	s := a.retention.State()
	if len(s.Rules) != 3 || s.Rules[0].Devices != 2 || s.Rules[1].Devices != 1 || s.Rules[2].Devices != 0 || s.WithoutRule != 1 || s.NextAt.IsZero() || s.Last != nil {
		t.Errorf("before: %+v", s)
	}
	run := waitRun(t, a.retention, "anna")
	if run.State != api.RetentionDone || run.AskedBy != "anna" || run.Messages == 0 || len(run.Dropped) != 2 {
		t.Fatalf("the run: %+v\n%s", run, log)
	}
	var sum api.RetentionAmount
	for _, p := range run.Dropped {
		sum.Chunks, sum.Messages, sum.Bytes = sum.Chunks+p.Chunks, sum.Messages+p.Messages, sum.Bytes+p.Bytes
		if p.Of != api.RetentionTelemetry || p.Type == "box" && p.Rule != "type:box 1h" || p.Type == "station" && p.Rule != "device:d2 1B" {
			t.Errorf("part %+v", p)
		}
	}
	if sum != run.RetentionAmount {
		t.Errorf("the parts are %+v together, the run %+v", sum, run.RetentionAmount)
	}
	// Nothing is left to drop; a run that was asked for is remembered all the same.
	if again := waitRun(t, a.retention, "anna"); again.ID != run.ID+1 || again.Chunks != 0 || again.State != api.RetentionDone {
		t.Errorf("once more: %+v", again)
	}
	if err := a.devices.Remove(t.Context(), a.devices.Find("d3"), nil); err != nil {
		t.Fatal(err)
	}
	if gone := waitRun(t, a.retention, "bob"); len(gone.Dropped) != 1 || gone.Dropped[0].Of != api.RetentionRemoved || gone.Dropped[0].Messages == 0 {
		t.Errorf("of a removed device: %+v", gone)
	}
	before := a.retention.State()
	if len(before.Runs) != 3 || before.Runs[0].AskedBy != "bob" || before.Last.ID != 3 || before.Totals.Runs != 3 || before.Totals.Messages <= run.Messages {
		t.Errorf("then: %+v", before)
	}
	closeApp(t, a)
	a = open(t, cfg, log)
	defer closeApp(t, a)
	after := a.retention.State()
	if after.Totals.Runs != 3 || after.Totals.RetentionAmount != before.Totals.RetentionAmount || after.Totals.Since.UnixMilli() != before.Totals.Since.UnixMilli() || len(after.Runs) != 0 {
		t.Errorf("after a restart: %+v, before %+v", after.Totals, before.Totals)
	}
	if _, err := a.retention.Run(t.Context(), 77); signalbox.KindOf(err) != signalbox.KindNotFound {
		t.Errorf("a run that never was gives %v", err)
	}
}

// TestRetentionIsBounded: accounts are few and short whatever happens.
func TestRetentionIsBounded(t *testing.T) {
	a := open(t, testConfig(t.TempDir()), &written{})
	defer closeApp(t, a)
	r := &retainer{devices: a.devices, store: a.store, logger: a.logger, asked: make(chan struct{}, 1)}
	for i := range 2 * maxParts {
		kind := fmt.Sprintf("kind%d", i)
		if _, err := a.devices.AddAll(t.Context(), []registry.NewDevice{{Name: kind, Type: kind}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 * maxRuns {
		run := r.begin()
		for _, d := range a.devices.All() {
			r.note(run, d.ID, history.Dropped{Chunks: 1, Messages: 2, Bytes: 3})
		}
		if err := r.end(t.Context(), run, nil); err != nil {
			t.Fatal(err)
		}
	}
	s := r.State()
	if len(s.Runs) != maxRuns || len(s.Last.Dropped) != maxParts || s.Last.Chunks != 2*maxParts || s.Totals.Chunks != 4*maxRuns*maxParts {
		t.Errorf("%d runs, %d parts, %+v", len(s.Runs), len(s.Last.Dropped), s.Totals)
	}
	if last := s.Last.Dropped[maxParts-1]; last.Of != api.RetentionOthers || last.Chunks != maxParts+1 {
		t.Errorf("the rest is %+v", last)
	}
}

// TestRetentionRemembers: runs that did nothing push no others out of the list.
func TestRetentionRemembers(t *testing.T) {
	a := open(t, testConfig(t.TempDir()), &written{})
	defer closeApp(t, a)
	r := &retainer{devices: a.devices, store: a.store, logger: a.logger, asked: make(chan struct{}, 1)}
	once := func(by string, d api.RetentionAmount, failed error) {
		t.Helper()
		if by != "" {
			r.Start(by)
		}
		run := r.begin()
		if d != (api.RetentionAmount{}) {
			r.add(run, part{of: api.RetentionPlain}, d)
		}
		if err := r.end(t.Context(), run, failed); err != nil {
			t.Fatal(err)
		}
	}
	once("", api.RetentionAmount{PlainRows: 3}, nil)
	once("", api.RetentionAmount{PlainDays: 2}, nil)
	once("", api.RetentionAmount{}, context.Canceled)
	for range 2 * maxRuns {
		once("anna", api.RetentionAmount{}, nil)
		once("", api.RetentionAmount{}, nil)
	}
	s := r.State()
	if len(s.Runs) != 4 || s.Runs[0].AskedBy != "anna" || s.Runs[0].ID != s.Last.ID-1 || s.Runs[1].Error == "" || s.Runs[2].PlainDays != 2 || s.Runs[3].PlainRows != 3 {
		t.Errorf("remembered are %+v", s.Runs)
	}
	if s.Totals.PlainRows != 3 || s.Totals.PlainDays != 2 {
		t.Errorf("the totals are %+v", s.Totals)
	}
}

// TestRetentionStops: who waits for a run of a hub that stops hears that there is none.
func TestRetentionStops(t *testing.T) {
	a := open(t, testConfig(t.TempDir()), &written{})
	defer closeApp(t, a)
	r := &retainer{log: a.log, devices: a.devices, store: a.store, logger: a.logger, asked: make(chan struct{}, 1)}
	run := r.Start("anna")
	if again := r.Start("bob"); again.ID != run.ID || again.AskedBy != "anna" {
		t.Errorf("a second run beside %+v: %+v", run, again)
	}
	r.stop()
	if ended, err := r.Run(t.Context(), run.ID); err != nil || ended.State != api.RetentionFailed {
		t.Errorf("the run that did not begin is %+v, %v", ended, err)
	}
	if late := r.Start("bob"); late.State != api.RetentionFailed {
		t.Errorf("a run of a stopped hub is %+v", late)
	}
}
