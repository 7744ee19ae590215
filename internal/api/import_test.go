package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"signalbox/internal/api"
)

func TestImportDevices(t *testing.T) {
	h := newHub(t, nil)
	h.add(t, "here", "box")
	url := v1 + "/devices/import"
	as := func(kind string) map[string]string { return map[string]string{"Content-Type": kind} }
	run(t, h, []scenario{
		{
			name: "array", method: "POST", url: url, as: "admin", status: 200,
			body: `[{"name":"a1","type":"box","password":"1234"},{"name":"a2"},{"name":"bad name","type":"box"},{"name":"here"},{"name":"a1"},{"name":7},{"name":"a3","password":""},5]`,
			want: []string{
				`"created":2,"kept":2,"refused":4`, `{"kind":"device","index":0,"name":"a1","outcome":"created"}`, `"index":1,"name":"a2","outcome":"created","secret":"`,
				`"index":2,"name":"bad name","outcome":"refused","code":"invalid_name"`, `"index":3,"name":"here","outcome":"kept","code":"name_taken"`,
				`"index":4,"name":"a1","outcome":"kept"`, `"index":5,"name":"","outcome":"refused","code":"invalid_entry"`, `"index":6,"name":"a3","outcome":"refused","code":"invalid_secret"`,
			},
		},
		{name: "NDJSON", method: "POST", url: url, as: "admin", header: as("application/x-ndjson"), status: 200, body: "{\"name\":\"n1\",\"secret\":\"x\"}\n{\"name\":\"n2\"}\n", want: []string{`"created":2`}},
		{name: "CSV with a head", method: "POST", url: url, as: "admin", header: as("text/csv; charset=utf-8"), status: 200, body: "\xef\xbb\xbftype,Name,secret\nbox,c1,1234\nstation,c2,\n", want: []string{`"created":2`, `"name":"c2","outcome":"created","secret":"`}},
		{name: "CSV without a head", method: "POST", url: url, as: "admin", header: as("text/plain"), status: 200, body: "d1,box,1234\nd2\n", want: []string{`"created":2`}},
		{name: "again", method: "POST", url: url, as: "admin", header: as("text/csv"), status: 200, body: "d1,box,1234\nd2\n", want: []string{`"created":0,"kept":2`}, not: []string{"secret"}},
		{name: "broken in the middle", method: "POST", url: url, as: "admin", status: 400, body: `[{"name":"x1"},{"name":"x2"`, want: []string{"invalid_json", "nothing was imported"}},
		{name: "something behind", method: "POST", url: url, as: "admin", status: 400, body: `[{"name":"x1"}] [`, want: []string{"invalid_json"}},
		{name: "broken CSV", method: "POST", url: url, as: "admin", header: as("text/csv"), status: 400, body: "x1,box\n\"x2,box\n", want: []string{"invalid_csv"}},
		{name: "empty", method: "POST", url: url, as: "admin", status: 400, want: []string{"empty_import"}},
		{name: "nothing half", method: "GET", url: v1 + "/devices?prefix=x", as: "read", status: 200, want: []string{`"items":[]`}},
	})
	kept, _ := h.devices.Find("c1").Secret()
	if !h.keys.Verify(kept.Kind, &kept.Sum, []byte("1234")) {
		t.Error("the imported password is not the device's")
	}
}

func TestImportData(t *testing.T) {
	h := newHub(t, nil)
	const hash = "$2b$04$abcdefghijklmnopqrstuuF8yJxJ2bGJbPbnGo5Gq0xSLO5p6lyvO"
	data := `{"users":[{"id":1,"username":"admin","password_hash":"` + hash + `"},{"id":2,"username":"оператор","password_hash":"` + hash + `"},{"id":3,"username":"x","password_hash":"plain"}],
"other":{"deep":[1]},"devices":[{"name":"esp01","type":"box","password":"1234","status":"offline"},{"name":"esp02","type":"station","password":"5678","status":"online"},{"name":"esp 3"}]}`
	run(t, h, []scenario{
		{name: "broken", method: "POST", url: v1 + "/import", as: "local", body: data[:len(data)-3], status: 400, want: []string{"invalid_json"}},
		{name: "no object", method: "POST", url: v1 + "/import", as: "local", body: `[]`, status: 400, want: []string{"invalid_json"}},
		{name: "users are no list", method: "POST", url: v1 + "/import", as: "local", body: `{"devices":[{"name":"esp01"}],"users":{}}`, status: 400},
		{name: "nothing half", method: "GET", url: v1 + "/devices", as: "read", status: 200, want: []string{`"total":0`}},
		{
			name: "import", method: "POST", url: v1 + "/import", as: "local", body: data, status: 200,
			want: []string{
				`"created":3,"kept":1,"refused":2`, `"kind":"user","index":0,"name":"admin","outcome":"kept"`, `"name":"оператор","outcome":"created"`,
				`"name":"x","outcome":"refused","code":"invalid_password_hash"`, `"kind":"device","index":2,"name":"esp 3","outcome":"refused"`,
			},
		},
		{name: "again", method: "POST", url: v1 + "/import", as: "local", body: data, status: 200, want: []string{`"created":0,"kept":4,"refused":2`}},
		{name: "the user is known", method: "GET", url: v1 + "/users", as: "admin", status: 200, want: []string{"оператор"}},
		{name: "the admin's password is still theirs", method: "POST", url: v1 + "/login", body: `{"name":"admin","password":"` + adminPassword + `"}`, status: 204},
	})
}

// TestImportManyDevices: a large import is one transaction, not one a device. The limit
// leaves room for the race detector on a busy machine.
func TestImportManyDevices(t *testing.T) {
	h := newHub(t, nil)
	const n = 10_000
	var body strings.Builder
	for i := range n {
		fmt.Fprintf(&body, "dev%06d,box,\n", i)
	}
	start := time.Now()
	w := h.ask("POST", v1+"/devices/import", body.String(), "admin", map[string]string{"Content-Type": "text/csv"})
	took := time.Since(start)
	var report struct{ Created, Kept, Refused int }
	if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil || report.Created != n {
		t.Fatalf("%d: %+v, %v", w.Code, report, err)
	}
	t.Logf("%d devices in %s", n, took)
	if took > 5*time.Minute {
		t.Errorf("%d devices took %s", n, took)
	}
}

func TestImportIsBounded(t *testing.T) {
	h := newHub(t, func(c *api.Config) { c.MaxImport = 1000 })
	body := "[" + strings.Repeat(`{"name":"a"},`, 200) + `{"name":"b"}]`
	run(t, h, []scenario{
		{name: "by length", method: "POST", url: v1 + "/devices/import", as: "admin", body: body, status: 413, want: []string{"1000 bytes"}},
	})
	r := h.request("POST", v1+"/devices/import", body, "admin", nil)
	r.ContentLength = -1
	w := newRecorder()
	h.handler.ServeHTTP(w, r)
	if w.Code != 413 {
		t.Errorf("without a length: %d %s", w.Code, w.Body)
	}
}
