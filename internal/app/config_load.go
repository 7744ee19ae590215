package app

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"

	"signalbox"
)

// ConfigName is the file in the data directory that is read when no other is named.
const ConfigName = "signalbox.yaml"

// ConfigSources are the places settings come from; the later one wins: the defaults, the
// file, the environment, the flags.
type ConfigSources struct {
	// File must exist when it is named. Empty takes SIGNALBOX_CONFIG, and without that
	// signalbox.yaml of the data directory if there is one.
	File string
	// Environ holds NAME=value as os.Environ gives it. An empty value counts as not set.
	Environ []string
	// Flags holds the values given on the command line, by key.
	Flags map[string]string
}

// LoadedConfig is a checked configuration and where it came from.
type LoadedConfig struct {
	Config Config
	// File is the file that was read, empty for none.
	File string
	// From tells for each key that was set where it was: «hub.yaml:3», «SIGNALBOX_HTTP», «--http».
	From map[string]string
}

// given is a value somebody has set.
type given struct {
	key   string
	value any
	from  string
}

// LoadConfig joins all sources and checks the result. The error is a *signalbox.Error of
// KindInvalid with a line for each fault: what was wrong, where, and what is allowed.
func LoadConfig(src ConfigSources) (LoadedConfig, error) {
	var faults faults
	loaded := LoadedConfig{Config: DefaultConfig(), From: make(map[string]string)}

	fromEnv := readEnviron(src.Environ, &faults)
	fromFlags := readFlags(src.Flags, &faults)
	file, data, err := readConfigFile(src, slices.Concat(fromEnv, fromFlags))
	if err != nil {
		return LoadedConfig{}, err
	}
	loaded.File = file

	all := koanf.New(".")
	for _, layer := range [][]given{readYAML(file, data, &faults), fromEnv, fromFlags} {
		flat := make(map[string]any, len(layer))
		for _, g := range layer {
			// Each layer is checked by itself, so that a fault is told even where a later one hides it.
			scratch := DefaultConfig()
			if err := set(&scratch, g); err != nil {
				faults.add("%v", err)
				continue
			}
			flat[g.key] = g.value
			loaded.From[g.key] = g.from
		}
		if err := all.Load(confmap.Provider(flat, "."), nil); err != nil {
			return LoadedConfig{}, fmt.Errorf("join the settings: %w", err)
		}
	}
	for _, s := range settings() {
		if !all.Exists(s.key) {
			continue
		}
		if err := set(&loaded.Config, given{s.key, all.Get(s.key), loaded.From[s.key]}); err != nil {
			faults.add("%v", err)
		}
	}
	if faults.none() {
		loaded.Config.check(&faults)
	}
	if implied := filepath.Join(loaded.Config.Data, ConfigName); file != "" && impliedFile(src) && filepath.Clean(file) != implied {
		faults.add("%s: data = %q leads away from the directory this file lies in; name the file with --config, or remove the key",
			loaded.From["data"], loaded.Config.Data)
	}
	return loaded, faults.err()
}

// Check tells whether the settings fit together and each lies within its limits.
func (c *Config) Check() error {
	var faults faults
	c.check(&faults)
	return faults.err()
}

func (c *Config) check(faults *faults) {
	pair := func(key string, t TLSConfig) {
		if (t.Cert == "") != (t.Key == "") {
			faults.add("%s.cert and %s.key belong together; only one of them is set", key, key)
		}
	}
	pair("http.tls", c.HTTP.TLS)
	pair("devices.tls", TLSConfig{Cert: c.Devices.TLS.Cert, Key: c.Devices.TLS.Key})
	if c.Devices.TLS.Listen != "" && c.Devices.TLS.Cert == "" {
		faults.add("devices.tls.listen = %q needs devices.tls.cert and devices.tls.key", c.Devices.TLS.Listen)
	}
	if c.Devices.TLS.Listen == "" && c.Devices.TLS.Cert != "" {
		faults.add("devices.tls.cert is set but devices.tls.listen is empty, so that no port would use it")
	}
	c.checkMQTT(faults, pair)
	c.checkCompat(faults)
	if c.Devices.Outbox < c.Devices.MaxFrame/8 {
		faults.add("devices.outbox = %s is too small beside devices.max_frame = %s; at least an eighth of it is needed",
			formatSize(c.Devices.Outbox), formatSize(c.Devices.MaxFrame))
	}
	if c.StorePasswordFile != "" && c.Store == "" {
		faults.add("store_password_file is set but store is empty, so that nothing would use it")
	}
	if c.History.AckWait > c.History.MaxWait {
		faults.add("history.ack_wait = %s is longer than history.max_wait = %s", FormatDuration(c.History.AckWait), FormatDuration(c.History.MaxWait))
	}
}

func set(c *Config, g given) error {
	s, ok := settingOf(g.key)
	if !ok {
		return fmt.Errorf("%s: %s", g.from, noSuchKey(g.key))
	}
	if err := s.set(c, g.value); err != nil {
		if whole, ok := errors.AsType[wholeFault](err); ok {
			return fmt.Errorf("%s: %s: %w", g.from, g.key, whole)
		}
		spell := spell
		if s.spell != nil {
			spell = s.spell
		}
		allowed := s.allowed
		if _, text := g.value.(string); text && s.allowedText != "" {
			allowed = s.allowedText
		}
		return fmt.Errorf("%s: %s = %s is wrong: %w; allowed is %s", g.from, g.key, spell(g.value), err, allowed)
	}
	return nil
}

func spell(value any) string {
	switch v := value.(type) {
	case nil:
		return "(nothing)"
	case string:
		return fmt.Sprintf("%q", v)
	default:
		return fmt.Sprint(v)
	}
}

func settingOf(key string) (setting, bool) {
	for _, s := range settings() {
		if s.key == key {
			return s, true
		}
	}
	return setting{}, false
}

// noSuchKey says what is wrong with a key that is none: it is a section, or looks like a
// key or a section, or is nothing that is known.
func noSuchKey(key string) string {
	sections := sectionKeys()
	if within, ok := sections[key]; ok {
		return key + " is a section; it holds " + strings.Join(within, ", ")
	}
	nearest, section := Nearest(key, knownKeys()), Nearest(key, slices.Sorted(maps.Keys(sections)))
	switch {
	case nearest != "" && (section == "" || slips(key, nearest) <= slips(key, section)):
		return fmt.Sprintf("there is no key %q; the nearest is %q", key, nearest)
	case section != "":
		return fmt.Sprintf("there is no key %q; the nearest is the section %q", key, section)
	}
	if at := strings.LastIndexByte(key, '.'); at >= 0 && sections[key[:at]] != nil {
		return fmt.Sprintf("there is no key %q; the section %s holds %s", key, key[:at], strings.Join(sections[key[:at]], ", "))
	}
	return fmt.Sprintf("there is no key %q; «signalbox config doc» lists all", key)
}

// sectionKeys gives the keys within each section, those of its own sections among them.
func sectionKeys() map[string][]string {
	within := make(map[string][]string)
	for _, key := range knownKeys() {
		for at := strings.LastIndexByte(key, '.'); at >= 0; at = strings.LastIndexByte(key[:at], '.') {
			within[key[:at]] = append(within[key[:at]], key)
		}
	}
	return within
}

// knownKeys gives all keys in their order.
func knownKeys() []string {
	var keys []string
	for _, s := range settings() {
		keys = append(keys, s.key)
	}
	return keys
}

// impliedFile says whether the file is looked for in the data directory.
func impliedFile(src ConfigSources) bool {
	return src.File == "" && Environ(src.Environ, "SIGNALBOX_CONFIG") == ""
}

// readConfigFile finds and reads the file; an implied one may be missing.
func readConfigFile(src ConfigSources, later []given) (name string, data []byte, err error) {
	name = src.File
	if name == "" {
		name = Environ(src.Environ, "SIGNALBOX_CONFIG")
	}
	implied := name == ""
	if implied {
		dir := DefaultConfig().Data
		for _, g := range later {
			if s, ok := g.value.(string); ok && g.key == "data" {
				dir = s
			}
		}
		name = filepath.Join(dir, ConfigName)
	}
	data, err = os.ReadFile(name)
	switch {
	case err == nil:
		return name, data, nil
	case implied && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || closed(name)):
		return "", nil, nil // what is wrong with the directory is told by whoever opens it
	default:
		return "", nil, signalbox.Errorf(signalbox.KindInvalid, "config", "the configuration file %s cannot be read: %s", name, Cause(err))
	}
}

// closed says whether the directory that the file lies in may not be entered.
func closed(file string) bool {
	_, err := os.Stat(file)
	return errors.Is(err, fs.ErrPermission)
}

// Cause gives the reason of a fault of the file system or network without the path or
// address, which the sentence around it names.
func Cause(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

func readFlags(flags map[string]string, faults *faults) []given {
	var all []given
	for key, value := range flags {
		if _, ok := settingOf(key); !ok {
			faults.add("--set: %s", noSuchKey(key))
			continue
		}
		all = append(all, given{key, value, flagOf(key)})
	}
	slices.SortFunc(all, func(a, b given) int { return strings.Compare(a.key, b.key) })
	return all
}

// flagOf names the flag that sets key.
func flagOf(key string) string {
	switch key {
	case "data":
		return "--data"
	case "http.listen":
		return "--http"
	case "devices.listen":
		return "--devices"
	case "mqtt.listen":
		return "--mqtt"
	case "store":
		return "--store"
	case "history.mode":
		return "--history"
	case "log.level":
		return "--log-level"
	case "log.format":
		return "--log-format"
	default:
		return "--set"
	}
}

// A Variable of the environment and its meaning.
type Variable struct {
	Name string
	// Key is the setting it sets; empty for one that is no setting.
	Key     string
	Meaning string
}

// Variables gives every variable of the environment that Signalbox reads.
func Variables() []Variable {
	all := []Variable{
		{"SIGNALBOX_HTTP", "http.listen", ""},
		{"SIGNALBOX_DEVICES", "devices.listen", ""},
		{"SIGNALBOX_MQTT", "mqtt.listen", ""},
		{"SIGNALBOX_HISTORY", "history.mode", ""},
		{"SIGNALBOX_CONFIG", "", "The configuration file, as --config."},
		{"SIGNALBOX_ADMIN_PASSWORD", "", "The password of the user admin, when the first start of a hub makes that user; otherwise a random one is made."},
		{"SIGNALBOX_URL", "", "The hub the commands speak to, as --url."},
		{"SIGNALBOX_TOKEN", "", "The token the commands show to the hub at --url."},
		{"SIGNALBOX_TOKEN_FILE", "", "A file that holds that token, as --token-file."},
	}
	for _, s := range settings() {
		all = append(all, Variable{variableOf(s.key), s.key, ""})
	}
	return all
}

// variablePrefix begins the name of every variable.
const variablePrefix = "SIGNALBOX_"

// variableOf spells a key as a variable: http.listen is SIGNALBOX_HTTP_LISTEN. What the
// underscores stand for is settled by the list of keys.
func variableOf(key string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Environ gives the value of the variable name in environ, the last one if it is there
// more than once.
func Environ(environ []string, name string) string {
	value := ""
	for _, e := range environ {
		if n, v, ok := strings.Cut(e, "="); ok && n == name {
			value = v
		}
	}
	return value
}

// foreignVariable are those that Kubernetes sets in every container beside a service
// that is called signalbox.
var foreignVariable = regexp.MustCompile(`^SIGNALBOX_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)$`)

func readEnviron(environ []string, faults *faults) []given {
	known := make(map[string]Variable)
	var names []string
	for _, v := range Variables() {
		known[v.Name] = v
		names = append(names, strings.TrimPrefix(v.Name, variablePrefix))
	}
	byKey := make(map[string]given)
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, variablePrefix) || value == "" || foreignVariable.MatchString(name) {
			continue
		}
		v, ok := known[name]
		if !ok {
			hint := "«signalbox config doc» lists all"
			if nearest := Nearest(strings.TrimPrefix(name, variablePrefix), names); nearest != "" {
				hint = "the nearest is " + variablePrefix + nearest
			}
			faults.add("the environment variable %s is not known; %s", name, hint)
			continue
		}
		if v.Key == "" {
			continue
		}
		if other, ok := byKey[v.Key]; ok && other.from != name && other.value != value {
			faults.add("the environment variables %s and %s both set %s, to different values; keep one", other.from, name, v.Key)
		}
		byKey[v.Key] = given{v.Key, value, name}
	}
	var all []given
	for _, key := range knownKeys() {
		if g, ok := byKey[key]; ok {
			all = append(all, g)
		}
	}
	return all
}

// faults gathers all that is wrong, so that it can be mended in one go.
type faults struct{ lines []string }

func (f *faults) add(format string, args ...any) {
	f.lines = append(f.lines, fmt.Sprintf(format, args...))
}

func (f *faults) none() bool { return len(f.lines) == 0 }

func (f *faults) err() error {
	if f.none() {
		return nil
	}
	return signalbox.Errorf(signalbox.KindInvalid, "config", "%s", strings.Join(f.lines, "\n"))
}
