package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
)

// keeping is a retention whose runs end when told to.
type keeping struct {
	by  chan string
	end chan struct{}
	run api.RetentionRun
}

func (k *keeping) State() api.RetentionState {
	return api.RetentionState{
		Rules: []api.RetentionRule{{Rule: "90d", Scope: "all", MaxAgeMs: 7_776_000_000, Devices: 2}}, Runs: []api.RetentionRun{},
		Totals: api.RetentionTotals{Since: api.Time{Time: time.UnixMilli(1_700_000_000_000)}, Runs: 7, RetentionAmount: api.RetentionAmount{Chunks: 1, Messages: 2, Bytes: 3}},
	}
}

func (k *keeping) Start(by string) api.RetentionRun {
	k.by <- by
	return k.run
}

func (k *keeping) Run(ctx context.Context, id int64) (api.RetentionRun, error) {
	if id != k.run.ID {
		return api.RetentionRun{}, signalbox.Errorf(signalbox.KindNotFound, "run_not_found", "there is no run %d", id)
	}
	run := k.run
	select {
	case <-k.end:
		run.State = api.RetentionDone
	case <-ctx.Done():
	}
	return run, nil
}

func TestRetention(t *testing.T) {
	k := &keeping{by: make(chan string, 10), end: make(chan struct{}), run: api.RetentionRun{ID: 8, State: api.RetentionRunning, Dropped: []api.RetentionPart{}}}
	h := newHub(t, func(cfg *api.Config) { cfg.Retention = k })
	w := h.ask("GET", v1+"/retention", "", "read", nil)
	const state = `{"rules":[{"rule":"90d","scope":"all","max_age_ms":7776000000,"devices":2}],"without_rule":0,"runs":[],` +
		`"totals":{"since":"2023-11-14T22:13:20.000Z","runs":7,"chunks":1,"messages":2,"bytes":3,"reclaimed_bytes":0}}`
	if w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != state {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	steps := []struct {
		method, path, scope string
		code                int
		state               string
	}{
		{"POST", "/retention/runs", "command", http.StatusForbidden, ""},
		{"POST", "/retention/runs?wait=10m", "admin", http.StatusBadRequest, ""},
		{"POST", "/retention/runs", "admin", http.StatusAccepted, "running"},
		{"POST", "/retention/runs?wait=10ms", "admin", http.StatusAccepted, "running"},
		{"GET", "/retention/runs/8", "read", http.StatusOK, "running"},
		{"GET", "/retention/runs/9", "read", http.StatusNotFound, ""},
		{"GET", "/retention/runs/x", "read", http.StatusBadRequest, ""},
		{"end", "", "", 0, ""},
		{"GET", "/retention/runs/8?wait=30s", "read", http.StatusOK, "done"},
		{"POST", "/retention/runs?wait=30s", "admin", http.StatusAccepted, "done"},
	}
	for _, s := range steps {
		if s.method == "end" {
			close(k.end)
			continue
		}
		w := h.ask(s.method, v1+s.path, "", s.scope, nil)
		var run struct{ State string }
		err := json.Unmarshal(w.Body.Bytes(), &run)
		if w.Code != s.code || err != nil || s.state != "" && run.State != s.state {
			t.Errorf("%s %s gives %d %s", s.method, s.path, w.Code, w.Body)
		}
		if s.code == http.StatusAccepted && (w.Header().Get("Location") != v1+"/retention/runs/8" || <-k.by != "test-admin") {
			t.Errorf("%s %s: headers %v", s.method, s.path, w.Header())
		}
	}
}
