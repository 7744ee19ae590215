package api_test

import (
	"testing"

	"signalbox/internal/registry"
)

// TestPending lists, approves and removes devices that were seen without being known.
func TestPending(t *testing.T) {
	h := newHub(t, nil)
	h.add(t, "esp01", "box")
	for _, name := range []string{"new1", "new2"} {
		d, err := h.devices.AddPending(t.Context(), registry.NewDevice{Name: name, Type: "sensor"}, 10)
		if err != nil {
			t.Fatal(err)
		}
		h.devices.NotePending(d, "s/"+name)
	}
	run(t, h, []scenario{
		{name: "all", method: "GET", url: v1 + "/devices", as: "read", status: 200, want: []string{`"name":"esp01"`, `"name":"new1"`, `"total":3`, `"pending":true`, `"topic":"s/new1"`, `"dropped":1`, `"last_seen":"`}},
		{name: "pending", method: "GET", url: v1 + "/devices?pending=true", as: "read", status: 200, want: []string{"new1", "new2"}, not: []string{"esp01"}},
		{name: "not pending", method: "GET", url: v1 + "/devices?pending=false", as: "read", status: 200, want: []string{"esp01"}, not: []string{"new1", `"pending"`, `"topic"`}},
		{name: "neither", method: "GET", url: v1 + "/devices?pending=x", as: "read", status: 400, want: []string{"query.pending"}},
		{name: "show", method: "GET", url: v1 + "/devices/new1", as: "read", status: 200, want: []string{`"disabled":true`, `"pending":true`}},
		{name: "add", method: "POST", url: v1 + "/devices", body: `{"name":"new1"}`, as: "admin", status: 409, want: []string{"name_taken", "waits for approval"}},
		{name: "command", method: "POST", url: v1 + "/devices/new1/commands", body: `{"command":"x"}`, as: "admin", status: 409, want: []string{"device_disabled", "approve it"}},
		{name: "enable", method: "PATCH", url: v1 + "/devices/new1", body: `{"disabled":false}`, as: "admin", status: 409, want: []string{"device_pending", "approve it"}},
		{name: "approve without the right", method: "POST", url: v1 + "/devices/new1/approve", as: "command", status: 403},
		{name: "approve as a bad type", method: "POST", url: v1 + "/devices/new1/approve", body: `{"type":"a b"}`, as: "admin", status: 400, want: []string{"invalid_name"}},
		{name: "approve", method: "POST", url: v1 + "/devices/new1/approve", body: `{"type":"lamp"}`, as: "admin", status: 200, want: []string{`"type":"lamp"`, `"disabled":false`}, not: []string{`"pending"`, `"topic"`}},
		{name: "approve again", method: "POST", url: v1 + "/devices/new1/approve", as: "admin", status: 409, want: []string{"not_pending"}},
		{name: "approve nobody", method: "POST", url: v1 + "/devices/nobody/approve", as: "admin", status: 404},
		{name: "remove", method: "DELETE", url: v1 + "/devices/new2", as: "admin", status: 204},
		{name: "none is left", method: "GET", url: v1 + "/devices?pending=true", as: "read", status: 200, want: []string{`"items":[]`}},
	})
}
