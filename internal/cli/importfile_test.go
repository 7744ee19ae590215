package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"signalbox/client"
)

func TestImportFaults(t *testing.T) {
	tests := []struct{ name, data, want string }{
		{"empty", "  \n", "standard input is empty"},
		{"empty object", "{}", "standard input:1: an object with neither users, devices nor a name"},
		{"object of another kind", "\n{\"nme\": \"x\"}", "standard input:2: an object with neither"},
		{"empty list", "[]", "standard input:1: there are no devices in it"},
		{"empty data.json", `{"users":[],"devices":[]}`, "neither users nor devices in it"},
		{"devices that are no list", "{\"users\":[],\n\"devices\":{}}", "standard input:2: devices must be a list"},
		{"cut off", "[\n{\"name\":\"a\"},\n{\"name\":", "standard input:3: the JSON ends in the middle"},
		{"cut off behind an entry", "[\n{\"name\":\"a\"}\n", "standard input:2: the JSON ends in the middle"},
		{"object cut off", `{"name":"esp07"`, "standard input:1: the JSON ends in the middle"},
		{"comma too many", "{\"name\":\"a\"}\n{\"name\":\"b\",}\n", "standard input:2: this is not JSON: invalid character '}'"},
		{"comma missing", "[{\"name\":\"a\"}\n\n{\"name\":\"b\"}]", "standard input:3: this is not JSON"},
		{"data.json cut off", "{\"devices\":[{\"name\":\"a\"}],\n", "the JSON ends in the middle"},
		{"more behind the end", "[{\"name\":\"a\"}]\n[]", "standard input:2: something follows"},
		{"bytes", "a,b\n\x00\x01", "standard input:2: this is neither JSON nor CSV: it holds bytes that are no text"},
		{"UTF-16", "\xff\xfen\x00a\x00", "UTF-16; save it as UTF-8"},
		{"another encoding", "name\n\xf1\xf2", "standard input:2: this is neither JSON nor CSV: the text is not UTF-8"},
		{"HTML", "<html></html>", "looks like HTML or XML"},
		{"semicolons", "name;type\na;b\n", "standard input:1: the columns are separated by semicolons; commas are needed"},
		{"tabs", "name\ttype\na\tb\n", "separated by tabs"},
		{"column names alone", "name,type\n", "no devices"},
		{"no column of names", "type,password\nbox,1\n", "standard input:1: the columns have names, but none is called name"},
		{"quotes", "name\na\n\"b\"x\n", "standard input:3: this is not CSV"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newStation(t).feed(tt.data, "import", "-").want(t, ExitUsage, tt.want)
			if r.out != "" || tt.name != "empty" && !strings.Contains(r.err, "nothing was imported") {
				t.Errorf("out: %s\nerr: %s", r.out, r.err)
			}
		})
	}
}

func TestImportLines(t *testing.T) {
	tests := []struct {
		name, data, kind string
		lines            []int
		twice            string
	}{
		{"list", "[\n{\"name\":\"a\"},{\"name\":5},\n\n7,\n{\"name\":\n\"a\"}]", "device", []int{2, 2, 4, 5}, "f.json:5: the device a is there already, in line 2; the first one counts"},
		{"objects", "{\"name\":\"a\"}\n\n{\"name\":\"b\"}", "device", []int{1, 3}, ""},
		{"users", "{\"users\":\n[{\"username\":\"a\"},\n{\"username\":\"a\"}],\"x\":{},\"devices\":[{\"name\":\"a\"}]}", "user", []int{2, 3}, "f.json:3: the user a is there already, in line 2; the first one counts"},
		{"CSV", "type,name\nbox,a\n\n\"box\n\",b\nbox,a\n", "device", []int{2, 4, 6}, "f.json:6: the device a is there already, in line 2; the first one counts"},
		{"CSV without column names", "a\nb,box\n", "device", []int{1, 2}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := inspect("f.json", []byte(tt.data))
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range tt.lines {
				if got := f.line(tt.kind, i); got != want {
					t.Errorf("entry %d is in line %d, not %d", i, got, want)
				}
			}
			if got := strings.Join(f.twice, "|"); f.line(tt.kind, len(tt.lines)) != 0 || got != tt.twice {
				t.Errorf("%d entries; twice: %s", len(f.lines[tt.kind]), got)
			}
		})
	}
}

// TestRefusalsByReason: what is wrong with many rows is said once.
func TestRefusalsByReason(t *testing.T) {
	rows := []client.RowRefusal{{Line: 2, Device: "a", Reason: "x"}, {Line: 3, Reason: "y"}, {Line: 4, Device: "b", Reason: "x"}}
	for line := range int64(50) {
		rows = append(rows, client.RowRefusal{Line: 5 + line, Device: "a", Reason: "x"})
	}
	var out, notes strings.Builder
	c := &command{Program: &Program{Stdout: &out, Stderr: &notes}}
	err := c.printTelemetryReport("f", &client.TelemetryReport{Read: 60, Refused: 60, Refusals: rows})
	if err == nil {
		t.Error("there is no error")
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if want := []string{"LINE ROWS DEVICE REFUSED BECAUSE", "2 4 5 … 52 a b x", "3 1 - y"}; !slices.Equal(got, want) {
		t.Errorf("it prints %q, want %q", got, want)
	}
	if !strings.Contains(notes.String(), "and 7 more rows that were refused") {
		t.Errorf("it says %s", &notes)
	}
}

func FuzzImportFile(f *testing.F) {
	f.Add([]byte(dataFile))
	f.Add([]byte("name,type\na,\"b\nc\"\n"))
	f.Add([]byte("[{},7,null,{\"name\":\"a\"}]"))
	f.Add([]byte("{\"name\":\"a\"}{\"name\":\"a\"}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(strings.TrimSpace(string(data))) == 0 {
			return
		}
		file, err := inspect("f", data)
		if err != nil {
			if _, usage := errors.AsType[usageError](err); !usage {
				t.Errorf("%v", err)
			}
			return
		}
		last := 1 + strings.Count(string(data), "\n")
		for kind, lines := range file.lines {
			for i, line := range lines {
				if line < 1 || line > last || i > 0 && line < lines[i-1] {
					t.Errorf("%s %d of %q is in line %d", kind, i, data, line)
				}
			}
		}
	})
}
