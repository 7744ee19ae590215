package app

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"signalbox"
)

// fieldsOf gathers a pointer to each leaf of the configuration with its path.
func fieldsOf(v reflect.Value, path string, out map[any]string) {
	for i := range v.NumField() {
		field, name := v.Field(i), path+v.Type().Field(i).Name
		if field.Kind() == reflect.Struct {
			fieldsOf(field, name+".", out)
			continue
		}
		out[field.Addr().Interface()] = name
	}
}

func TestEveryFieldHasOneDocumentedKey(t *testing.T) {
	c := DefaultConfig()
	fields := make(map[any]string)
	fieldsOf(reflect.ValueOf(&c).Elem(), "", fields)
	variables := make(map[string]string)
	for _, s := range settings() {
		at := s.field(&c)
		if fields[at] == "" {
			t.Errorf("%s: no field of its own", s.key)
		}
		delete(fields, at)
		if s.doc == "" || !strings.HasSuffix(s.doc, ".") || s.allowed == "" {
			t.Errorf("%s: no documentation in sentences: %q, allowed %q", s.key, s.doc, s.allowed)
		}
		if other := variables[variableOf(s.key)]; other != "" {
			t.Errorf("%s and %s share a variable", s.key, other)
		}
		variables[variableOf(s.key)] = s.key
	}
	for _, name := range fields {
		t.Errorf("Config.%s has no key", name)
	}
}

func TestDefaultFileGivesTheDefaults(t *testing.T) {
	var text bytes.Buffer
	if err := WriteDefaultConfig(&text); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadConfig(ConfigSources{File: writeConfig(t, text.String())})
	if err != nil {
		t.Fatalf("%v\n%s", err, text.String())
	}
	if want := DefaultConfig(); !reflect.DeepEqual(loaded.Config, want) {
		t.Errorf("read back: %+v\nwant: %+v", loaded.Config, want)
	}
	if len(loaded.From) != len(settings()) {
		t.Errorf("the default file sets %d of %d keys", len(loaded.From), len(settings()))
	}
	if changed := loaded.Config.Changed(); len(changed) != 0 {
		t.Errorf("changed: %q", changed)
	}
	if err := loaded.Config.Check(); err != nil {
		t.Error(err)
	}
}

func TestReferenceHasEachSectionOnce(t *testing.T) {
	var text bytes.Buffer
	if err := WriteConfigReference(&text); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "### ") && seen[line] {
			t.Errorf("%q is there twice", line)
		}
		seen[line] = true
	}
}

func TestNearest(t *testing.T) {
	names := []string{"serve", "config", "import", "device", "list", "http.listen", "devices.listen", "devices.max_frame"}
	for name, want := range map[string]string{
		"servce": "serve", "sevre": "serve", "lsit": "list", "lst": "list", "dveice": "device", "max_frame": "devices.max_frame",
		"http.max_frame": "devices.max_frame", "devices.maxframe": "devices.max_frame", "device.listn": "devices.listen",
		"frobnicate": "", "x": "", "": "", "coap.listen": "",
	} {
		if got := Nearest(name, names); got != want {
			t.Errorf("%q is near %q, want %q", name, got, want)
		}
	}
}

func TestReferenceIsUpToDate(t *testing.T) {
	var want bytes.Buffer
	if err := WriteConfigReference(&want); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../docs/configuration.md")
	if err != nil || !bytes.Equal(have, want.Bytes()) {
		t.Errorf("docs/configuration.md is not what «signalbox config doc» writes (%v): make it anew with "+
			"«go run ./cmd/signalbox config doc > docs/configuration.md»", err)
	}
}

// TestListsAreSpelledAsAllowed: where a list is one text, what is allowed is told as one text, and
// it is allowed.
func TestListsAreSpelledAsAllowed(t *testing.T) {
	refused := func(src ConfigSources) string {
		t.Helper()
		_, err := LoadConfig(src)
		if err == nil {
			t.Fatalf("%+v is allowed", src)
		}
		return err.Error()
	}
	const text = `allowed is a list of rules with commas between them, such as 90d,type:station 30d,device:esp01 1GiB 365d`
	if got := refused(ConfigSources{Flags: map[string]string{"history.keep": `["1m"]`}}); !strings.HasSuffix(got, text) {
		t.Errorf("a flag: %s", got)
	}
	if got := refused(ConfigSources{Environ: []string{`SIGNALBOX_HISTORY_KEEP=["1m"]`}}); !strings.HasSuffix(got, text) {
		t.Errorf("a variable: %s", got)
	}
	file := writeConfig(t, "history:\n  keep: [x]\n")
	if got := refused(ConfigSources{File: file}); !strings.HasSuffix(got, `allowed is a list of rules, such as ["90d", "type:station 30d", "device:esp01 1GiB 365d"]`) {
		t.Errorf("a file: %s", got)
	}
	for _, s := range settings() {
		if _, example, ok := strings.Cut(s.allowedText, ", such as "); ok {
			if _, err := LoadConfig(ConfigSources{Flags: map[string]string{s.key: example}}); err != nil {
				t.Error(err)
			}
		}
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "hub.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestConfigFaults(t *testing.T) {
	tests := []struct {
		name, yaml string
		env        []string
		flags      map[string]string
		want       []string
	}{
		{name: "unknown key", yaml: "http:\n  listn: :80\n", want: []string{"hub.yaml:2:", `"http.listn"`, `nearest is "http.listen"`}},
		{name: "key in the wrong section", yaml: "\n\nmax_frame: 1KiB\n", want: []string{"hub.yaml:3:", `nearest is "devices.max_frame"`}},
		{name: "unknown section", yaml: "device:\n  listen: :80\n", want: []string{"hub.yaml:1:", `no key "device"; the nearest is the section "devices"`}},
		{name: "key with a near section", yaml: "device.listen: :80\n", want: []string{`nearest is "devices.listen"`}},
		{name: "nothing near", yaml: "frobnicate: 5\n", want: []string{`no key "frobnicate"; «signalbox config doc» lists all`}},
		{name: "nothing near in a section", yaml: "login: {frobnicate: 5}\n", want: []string{"the section login holds login.backoff_max, login.session"}},
		{name: "another protocol's section", yaml: "coap.listen: :5683\n", want: []string{`no key "coap.listen"; «signalbox config doc» lists all`}},
		{name: "section as a flag", flags: map[string]string{"http": ":80"}, want: []string{"--set: http is a section; it holds http.listen"}},
		{name: "section as value", yaml: "http: 8080\n", want: []string{"hub.yaml:1: http is a section", "http.listen"}},
		{name: "key as section", yaml: "data:\n  dir: x\n", want: []string{"data is a single key"}},
		{name: "list as value", yaml: "http:\n  listen: [a, b]\n", want: []string{"hub.yaml:2:", "http.listen", "not a list", "host:port"}},
		{name: "twice", yaml: "data: a\nhttp:\n  max_body: 1MiB\ndata: b\n", want: []string{"hub.yaml:4:", "line 1"}},
		{name: "no YAML", yaml: "http: [", want: []string{"hub.yaml is not YAML"}},
		{name: "no mapping", yaml: "- a\n", want: []string{"hub.yaml:1:", "keys and values"}},
		{name: "no value", yaml: "http:\n  max_body:\n", want: []string{"hub.yaml:2:", "no value"}},
		{name: "duration without unit", yaml: "login:\n  session: 5\n", want: []string{`login.session = "5"`, "unit is missing", "from 1m to 3650d"}},
		{name: "negative duration", yaml: "login: {session: -5s}\n", want: []string{"negative"}},
		{name: "size", yaml: "devices: {outbox: 5XB}\n", want: []string{`devices.outbox = "5XB"`, "64MiB"}},
		{name: "over the limit", yaml: "history: {max_wait: 1s}\n", want: []string{"too large", "50ms"}},
		{name: "not a number", yaml: "devices: {ping_misses: many}\n", want: []string{"whole number from 1 to 100"}},
		{name: "not a truth", yaml: "http: {public_docs: perhaps}\n", want: []string{"true or false"}},
		{name: "not a level", yaml: "log: {level: loud}\n", want: []string{"debug, info, warn or error"}},
		{name: "not a word", yaml: "log: {format: xml}\n", want: []string{"text or json"}},
		{name: "not a network", yaml: "http: {trusted_proxies: [ten]}\n", want: []string{`"ten" is neither`}},
		{name: "not an origin", yaml: "devices: {origins: [panel]}\n", want: []string{`"panel" is not an origin`}},
		{name: "not an address", yaml: "http: {listen: '8080'}\n", want: []string{"not host:port"}},
		{name: "port", yaml: "http: {listen: ':80800'}\n", want: []string{"0 to 65535"}},
		{name: "half of TLS", yaml: "http: {tls: {cert: a.pem}}\n", want: []string{"http.tls.cert and http.tls.key belong together"}},
		{name: "two at once", yaml: "x: 1\nlog: {format: xml}\n", want: []string{"hub.yaml:1:", "hub.yaml:2:"}},
		{name: "hidden by the environment", yaml: "log: {format: xml}\n", env: []string{"SIGNALBOX_LOG_FORMAT=json"}, want: []string{"hub.yaml:1:"}},
		{name: "unknown variable", env: []string{"SIGNALBOX_DEVICES_MAXFRAME=1"}, want: []string{"SIGNALBOX_DEVICES_MAXFRAME is not known", "nearest is SIGNALBOX_DEVICES_MAX_FRAME"}},
		{name: "variable with nothing near", env: []string{"SIGNALBOX_FROB=1"}, want: []string{"SIGNALBOX_FROB is not known; «signalbox config doc»"}},
		{name: "wrong variable", env: []string{"SIGNALBOX_COMMANDS_MAX_BULK=0"}, want: []string{"SIGNALBOX_COMMANDS_MAX_BULK: commands.max_bulk", "too small"}},
		{name: "both spellings", env: []string{"SIGNALBOX_HTTP=:1", "SIGNALBOX_HTTP_LISTEN=:2"}, want: []string{"both set http.listen"}},
		{name: "unknown flag key", flags: map[string]string{"htp.listen": ":1"}, want: []string{`--set: there is no key "htp.listen"`, `nearest is "http.listen"`}},
		{name: "wrong flag", flags: map[string]string{"http.listen": "x"}, want: []string{`--http: http.listen = "x"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := LoadConfig(ConfigSources{File: writeConfig(t, tt.yaml), Environ: tt.env, Flags: tt.flags})
			if signalbox.KindOf(err) != signalbox.KindInvalid {
				t.Fatalf("error %v is not of the kind invalid", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}

func TestConfigLayers(t *testing.T) {
	file := writeConfig(t, "http:\n  listen: :1\n  trusted_proxies: [10.0.0.0/8, '::1']\nlogin.session: 1d12h\nlog:\ndevices: {outbox: 100kB}\n")
	loaded, err := LoadConfig(ConfigSources{
		File: file,
		Environ: []string{
			"SIGNALBOX_HTTP=:2", "SIGNALBOX_DEVICES=:3", "SIGNALBOX_COMMANDS_MAX_ACTIVE_PER_DEVICE=7", "SIGNALBOX_DEVICES_ORIGINS=https://a.example, null",
			"SIGNALBOX_LOG_LEVEL=", "SIGNALBOX_SERVICE_HOST=10.1.1.1", "SIGNALBOX_PORT_8080_TCP_ADDR=x", "SIGNALBOX_TOKEN=t", "OTHER=1",
		},
		Flags: map[string]string{"devices.listen": ":4"},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := loaded.Config
	want := DefaultConfig()
	want.HTTP.Listen, want.Devices.Listen = ":2", ":4"
	want.HTTP.TrustedProxies = c.HTTP.TrustedProxies
	want.Login.Session, want.Devices.Outbox, want.Commands.MaxActivePerDevice = 36*time.Hour, 100_000, 7
	want.Devices.Origins = []string{"https://a.example", "null"}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("have %+v\nwant %+v", c, want)
	}
	if got := fmt.Sprint(c.HTTP.TrustedProxies); got != "[10.0.0.0/8 ::1/128]" {
		t.Errorf("proxies %s", got)
	}
	if loaded.From["http.listen"] != "SIGNALBOX_HTTP" || loaded.From["devices.listen"] != "--devices" || !strings.HasSuffix(loaded.From["login.session"], "hub.yaml:4") {
		t.Errorf("from %v", loaded.From)
	}
}

func TestConfigFileInDataDirectory(t *testing.T) {
	dir := t.TempDir()
	src := ConfigSources{Flags: map[string]string{"data": dir}}
	if loaded, err := LoadConfig(src); err != nil || loaded.File != "" {
		t.Fatalf("without a file: %q, %v", loaded.File, err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigName), []byte("http: {listen: ':9'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if loaded, err := LoadConfig(src); err != nil || loaded.Config.HTTP.Listen != ":9" || loaded.Config.Data != dir {
		t.Errorf("with a file: %+v, %v", loaded, err)
	}
	src = ConfigSources{Environ: []string{"SIGNALBOX_DATA=" + dir}}
	if loaded, err := LoadConfig(src); err != nil || loaded.Config.HTTP.Listen != ":9" {
		t.Errorf("directory from the environment: %+v, %v", loaded, err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigName), []byte("data: /elsewhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadConfig(src); err != nil {
		t.Errorf("the environment decides where the data are, yet: %v", err)
	}
	for name, src := range map[string]ConfigSources{
		"flag":     {File: filepath.Join(dir, "none.yaml")},
		"variable": {Environ: []string{"SIGNALBOX_CONFIG=" + filepath.Join(dir, "none.yaml")}},
	} {
		if _, err := LoadConfig(src); err == nil || !strings.Contains(err.Error(), "none.yaml cannot be read") {
			t.Errorf("%s: a named file that is missing gave %v", name, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "1.5d": 36 * time.Hour, "1d1h": 25 * time.Hour, "2ms": 2 * time.Millisecond, "0": 0, "90m": 90 * time.Minute,
	} {
		d, err := ParseDuration(text)
		if err != nil || d != want {
			t.Errorf("%q is %v, %v; want %v", text, d, err, want)
		}
		if again, err := ParseDuration(FormatDuration(d)); err != nil || again != d {
			t.Errorf("%q is written %q, which is %v, %v", text, FormatDuration(d), again, err)
		}
	}
	for _, text := range []string{"", "d", "5", "-1s", "1d-1h", "1x", "NaNd", "36500d2000000h", "-1d", "1e9d"} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("%q was taken for %v", text, d)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int{"1": 1, "2B": 2, "64KiB": 65536, "3 MiB": 3 << 20, "1GiB": 1 << 30, "5kB": 5000, "1MB": 1e6, "1_000": 1000} {
		if n, err := ParseSize(text); err != nil || n != want {
			t.Errorf("%q is %d, %v; want %d", text, n, err, want)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "1.5MiB", "9999999999GiB", "1TB", "1KK"} {
		if n, err := ParseSize(text); err == nil {
			t.Errorf("%q was taken for %d", text, n)
		}
	}
}

func FuzzConfigFile(f *testing.F) {
	f.Add([]byte("http:\n  listen: :1\n"))
	f.Add([]byte("a: &x {b: *x}\nhttp: *x\n"))
	f.Add([]byte("telemetry: {past: 1d}\n<<: {data: x}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var faults faults
		for _, g := range readYAML("f.yaml", data, &faults) {
			c := DefaultConfig()
			_ = set(&c, g)
		}
	})
}
