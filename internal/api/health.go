package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
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
		for _, c := range h.Checks {
			if !c.OK {
				h.Status, status = "not ready", http.StatusServiceUnavailable
			}
		}
		writeHealth(w, status, h)
	})
	metrics := promhttp.HandlerFor(s.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
	mux.HandleFunc("GET /metrics", s.open(s.PublicMetrics, metrics.ServeHTTP))
}

func writeHealth(w http.ResponseWriter, status int, h health) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(h) // a client that is gone needs no answer
}
