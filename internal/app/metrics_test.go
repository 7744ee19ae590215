package app_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"signalbox/internal/app"
)

// TestCommandMetrics: what the table of commands is behind the log can be watched.
func TestCommandMetrics(t *testing.T) {
	cfg := app.DefaultConfig()
	cfg.Data = filepath.Join(t.TempDir(), "data")
	hub, err := app.Open(t.Context(), app.Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := hub.Close(); err != nil {
			t.Error(err)
		}
	}()
	w := httptest.NewRecorder()
	hub.LocalAPI().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, name := range []string{
		"signalbox_command_rows_total", "signalbox_command_rows_rushed_total", "signalbox_command_rows_behind",
		"signalbox_commands_missed_total", "signalbox_commands_held",
	} {
		if !strings.Contains(w.Body.String(), "\n"+name+" ") {
			t.Errorf("there is no %s", name)
		}
	}
}
