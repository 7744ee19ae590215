package client_test

import (
	"testing"
	"time"

	"signalbox"
)

func TestRetention(t *testing.T) {
	h, _ := newHub(t)
	ctx := t.Context()
	before, err := h.Retention(ctx)
	must(t, err)
	if before.NextAt.IsZero() || before.Last != nil || len(before.Rules) != 0 || before.Totals.Runs != 0 {
		t.Errorf("before there is %+v", before)
	}
	run, err := h.RunRetention(ctx, 30*time.Second)
	must(t, err)
	if run.State != "done" || run.AskedBy != "local" || run.ID != 1 || run.EndedAt.IsZero() {
		t.Errorf("the run is %+v", run)
	}
	again, err := h.RetentionRun(ctx, run.ID, time.Second)
	must(t, err)
	if again.State != "done" || !again.EndedAt.Equal(run.EndedAt) {
		t.Errorf("the run becomes %+v", again)
	}
	after, err := h.Retention(ctx)
	must(t, err)
	if after.Last == nil || after.Last.ID != run.ID || len(after.Runs) != 1 || after.Totals.Runs != 1 || after.Totals.Since.IsZero() {
		t.Errorf("then there is %+v", after)
	}
	_, err = h.RetentionRun(ctx, 99, 0)
	wantCode(t, err, signalbox.KindNotFound, "run_not_found")
}
