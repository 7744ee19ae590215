package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"signalbox"
)

// readyPatience bounds how long /readyz asks the parts.
const readyPatience = 5 * time.Second

// health is the answer of /healthz and /readyz.
type health struct {
	Status string  `json:"status"`
	Checks []Check `json:"checks"`
}

func (s *server) mountHealth(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeHealth(w, http.StatusOK, health{Status: "ok", Checks: []Check{}})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyPatience)
		defer cancel()
		h, status := health{Status: "ready", Checks: []Check{}}, http.StatusOK
		if s.Ready != nil {
			h.Checks = append(h.Checks, s.Ready(ctx)...)
		}
		known := s.knows(w, r)
		for i := range h.Checks {
			c := &h.Checks[i]
			if !c.OK {
				h.Status, status = "not ready", http.StatusServiceUnavailable
			}
			if known && c.Detail != "" {
				c.Message += ": " + c.Detail
			}
		}
		writeHealth(w, status, h)
	})
	metrics := promhttp.HandlerFor(s.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
	mux.HandleFunc("GET /metrics", s.open(s.PublicMetrics, metrics.ServeHTTP))
}

// knows reports whether the caller may know what is not for everybody: it is on the hub's own
// machine, or may read.
func (s *server) knows(w http.ResponseWriter, r *http.Request) bool {
	if s.Gate.sameMachine(r) {
		return true
	}
	_, err := s.allow(w, r, signalbox.ScopeRead)
	return err == nil
}

func writeHealth(w http.ResponseWriter, status int, h health) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(h) // a client that is gone needs no answer
}
