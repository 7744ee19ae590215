package api_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"signalbox"
	"signalbox/internal/api"
)

// TestBackupAnswers holds who gets a backup, and what becomes of one that fails.
func TestBackupAnswers(t *testing.T) {
	away := signalbox.Errorf(signalbox.KindUnavailable, "store_unavailable", "the database server is away")
	h := newHub(t, func(c *api.Config) {
		c.Backup = func(_ context.Context, w io.Writer, key bool) (int64, error) {
			text := "contents"
			if key {
				text += " and key"
			}
			n, err := io.WriteString(w, text)
			return int64(n), err
		}
	})
	failing := newHub(t, func(c *api.Config) {
		c.Backup = func(context.Context, io.Writer, bool) (int64, error) { return 0, away }
	})
	tests := []struct {
		name, url, as string
		hub           *hub
		status        int
		says          string
	}{
		{"nobody", "/api/v1/backup", "", h, 401, "unauthorized"},
		{"a reader", "/api/v1/backup", "read", h, 403, "this needs admin"},
		{"a commander", "/api/v1/backup", "command", h, 403, "this needs admin"},
		{"an admin", "/api/v1/backup", "admin", h, 200, "contents"},
		{"the key, from elsewhere", "/api/v1/backup?key=true", "admin", h, 403, "key_stays"},
		{"no key, from here", "/api/v1/backup?key=false", "local", h, 200, "contents"},
		{"the key, from here", "/api/v1/backup?key=true", "local", h, 200, "contents and key"},
		{"something unknown", "/api/v1/backup?keys=true", "admin", h, 400, "keys"},
		{"no truth", "/api/v1/backup?key=perhaps", "local", h, 400, "key"},
		{"a fault before it begins", "/api/v1/backup", "admin", failing, 503, "the database server is away"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := tt.hub.ask(http.MethodGet, tt.url, "", tt.as, nil)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.says) {
				t.Errorf("it gives %d %s", w.Code, w.Body)
			}
			if name := w.Header().Get("Content-Disposition"); w.Code == 200 && (w.Header().Get("Content-Type") != api.BackupType || !strings.Contains(name, `filename="signalbox-2`)) {
				t.Errorf("its headers are %v", w.Header())
			}
		})
	}
}

// TestBackupBreaksOff: a backup that cannot be ended is no complete answer; only one is taken
// at a time, and it ends when the hub stops.
func TestBackupBreaksOff(t *testing.T) {
	begun, fail := make(chan struct{}), make(chan error)
	h := newHub(t, func(c *api.Config) {
		c.Backup = func(ctx context.Context, w io.Writer, _ bool) (int64, error) {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
				return 0, err
			}
			begun <- struct{}{}
			select {
			case err := <-fail:
				return 0, err
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
	})
	server := httptest.NewServer(h.handler)
	defer server.Close()
	for i, end := range []func(){func() { fail <- errors.New("the disk is gone") }, func() { close(h.stopping) }} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/api/v1/backup", nil)
		must(t, err)
		req.Header.Set("Authorization", "Bearer "+h.tokens[signalbox.ScopeAdmin])
		ended := make(chan error, 1)
		go func() {
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				err = errors.Join(err, resp.Body.Close())
			}
			ended <- err
		}()
		receive(t, begun)
		if w := h.ask(http.MethodGet, "/api/v1/backup", "", "admin", nil); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "backup_running") {
			t.Errorf("%d: a second backup gives %d %s", i, w.Code, w.Body)
		}
		end()
		if err := receive(t, ended); err == nil {
			t.Errorf("%d: the broken answer looks complete", i)
		}
	}
}
