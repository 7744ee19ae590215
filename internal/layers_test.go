// Package internal_test holds the map of the project: which package may import which.
package internal_test

import (
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the module's path and the name of its root package, the ground on which all stand.
const module = "signalbox"

// A room is one package and the packages of this module it may import. Every room may import the root package;
// the root package imports the standard library only.
type room struct {
	name string   // import path below the module's, "" for the root package
	may  []string // names of rooms, each written further down in the plan
}

// floorPlan is the map: from the door at the top to the ground, a row a package, and imports run strictly downward.
// A package that is not in it fails the test; a row may wait for its package.
//
// Only production code is held: tests may start what they need.
func floorPlan() []room {
	nouns := []string{""}
	ground := join(nouns, "internal/session", "internal/history", "internal/store", "internal/auth", "internal/bus", "internal/wire")
	ground = join(ground, "internal/wire/packet", "internal/broker", "internal/broker/durable")
	roads := join(ground, "internal/ingest", "internal/command", "internal/registry")
	listeners := join(roads, "internal/live", "internal/replay", "internal/rule", "internal/forward", "internal/uplink", "internal/cluster")
	transports := []string{"internal/gateway/ws", "internal/gateway/mqtt", "internal/gateway/loop"}
	doors := join(listeners, "internal/mapped", "internal/remote", "internal/homeassistant", "internal/api", "internal/compat", "internal/gateway", "internal/bridge")

	return []room{
		// The program. The command line speaks the HTTP API and opens no database: one process opens the store.
		{"cmd/signalbox", join(nouns, "internal/cli")},
		{"internal/cli", join(nouns, "internal/transfer", "internal/bench", "internal/sim", "internal/app", "internal/bridge", "internal/auth", "internal/wire", "client")},

		// Load and simulated devices. The simulator knows public protocols alone; the bench also measures parts by themselves.
		{"internal/bench", join(roads, "internal/sim", "internal/app", "internal/gateway", "internal/gateway/ws", "internal/gateway/mqtt", "internal/gateway/loop", "client")},
		{"internal/sim", join(nouns, "internal/wire", "internal/wire/packet", "client")},

		// The hub as MQTT clients see it: tests alone.
		{"internal/conformance", nil},

		// The wiring: builds, joins, starts and stops the parts below; the only one that knows the configuration.
		{"internal/app", join(doors, append(transports, "internal/history/plain", "internal/forward/target", "web")...)},

		// The doors. They do not import each other. A transport moves frames and knows nothing of what they mean.
		{"internal/api", join(listeners, "internal/transfer", "web")},
		{"internal/compat", join(listeners, "internal/gateway/ws", "web")},
		{"internal/gateway", join(listeners, append(transports, "internal/mapped")...)},
		{"internal/gateway/ws", join(nouns, "internal/gateway/loop", "internal/wire")},
		{"internal/gateway/mqtt", join(nouns, "internal/gateway/loop", "internal/wire", "internal/wire/packet")},
		{"internal/gateway/loop", join(nouns, "internal/wire")},
		{"internal/bridge", listeners},
		{"internal/remote", join(listeners, "internal/mapped")},
		{"internal/remote/mosquittotest", nil}, // for tests alone
		{"internal/mapped", roads},
		{"internal/homeassistant", roads},

		// Who listens: each from its own bounded queue. None knows another, but that a replay plays into a forwarder.
		{"internal/live", roads},
		{"internal/rule", roads},
		{"internal/forward/target", join(nouns, "internal/forward", "internal/wire", "internal/wire/packet")},
		{"internal/forward", join(roads, "internal/replay")},
		{"internal/replay", roads},
		{"internal/uplink", roads},
		{"internal/cluster", roads},

		// The two roads, in and out. They do not import each other; they meet in session.
		{"internal/ingest", join(ground, "internal/registry")},
		{"internal/command", join(ground, "internal/registry")},
		{"internal/registry", ground},

		// The ground.
		{"internal/broker", join(nouns, "internal/broker/durable", "internal/history", "internal/wire", "internal/wire/packet")},
		{"internal/broker/durable", join(nouns, "internal/history", "internal/store", "internal/wire", "internal/wire/packet")},
		{"internal/session", join(nouns, "internal/bus", "internal/wire")},
		{"internal/transfer", join(nouns, "internal/wire", "internal/history")},
		{"internal/history/plain", join(nouns, "internal/store")},
		{"internal/history", join(nouns, "internal/store", "internal/bus", "internal/wire", "internal/history/chunk")},
		{"internal/history/chunk", join(nouns, "internal/wire")},
		{"internal/store/storetest", join(nouns, "internal/store")}, // for tests alone
		{"internal/store", nouns},
		{"internal/auth", nouns},
		{"internal/bus", nouns},
		{"internal/wire/packet", nouns},
		{"internal/wire", nouns},

		// What others may take away: the Go client, and the page's built files.
		{"client", nouns},
		{"web", nil},

		// The nouns: standard library only.
		{"", nil},
	}
}

func join(names []string, more ...string) []string {
	return append(slices.Clone(names), more...)
}

// TestImportsRunDownward holds every package of the module to the floor plan.
func TestImportsRunDownward(t *testing.T) {
	packages, err := readPackages("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := packages[""]; !ok {
		t.Fatalf("found %d packages, none of them the root package: is this test still one folder below go.mod?", len(packages))
	}
	plan := floorPlan()
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		for _, imported := range slices.Sorted(maps.Keys(packages[name])) {
			if err := check(plan, name, imported); err != nil {
				t.Errorf("%s: %v", packages[name][imported], err)
			}
		}
		if !known(plan, name) {
			t.Errorf("the floor plan does not know package %q: add a row for it to floorPlan in internal/layers_test.go, "+
				"on the floor it belongs to, and mend the picture in ARCHITECTURE.md", name)
		}
	}
}

// TestFloorPlanRunsDownward holds the plan itself: no row twice, and each names only rows further down, so that no circle can hide in it.
func TestFloorPlanRunsDownward(t *testing.T) {
	plan := floorPlan()
	height := make(map[string]int, len(plan))
	for i, r := range plan {
		if _, twice := height[r.name]; twice {
			t.Errorf("row %q is there twice", r.name)
		}
		height[r.name] = i
	}
	for i, r := range plan {
		for _, name := range r.may {
			if below, ok := height[name]; !ok || below <= i {
				t.Errorf("row %q may import %q, which is not a row further down", r.name, name)
			}
		}
	}
}

// TestCheck holds the checker: it lets pass what the plan allows and refuses the rest.
func TestCheck(t *testing.T) {
	tests := []struct {
		name     string
		importer string
		imported string
		want     string // part of the error, "" for none
	}{
		{"main starts the command line", "cmd/signalbox", "signalbox/internal/cli", ""},
		{"main is one line", "cmd/signalbox", "signalbox/internal/app", "may not import"},
		{"the command line opens no store", "internal/cli", "signalbox/internal/store", "may not import"},
		{"a door uses a road", "internal/api", "signalbox/internal/command", ""},
		{"a road uses no door", "internal/command", "signalbox/internal/api", "may not import"},
		{"a door uses no other door", "internal/compat", "signalbox/internal/api", "may not import"},
		{"the roads are apart", "internal/ingest", "signalbox/internal/command", "may not import"},
		{"a road uses the registry", "internal/ingest", "signalbox/internal/registry", ""},
		{"the registry uses no road", "internal/registry", "signalbox/internal/ingest", "may not import"},
		{"a gateway uses its transport", "internal/gateway", "signalbox/internal/gateway/ws", ""},
		{"a transport knows no gateway", "internal/gateway/ws", "signalbox/internal/gateway", "may not import"},
		{"a transport knows no session", "internal/gateway/ws", "signalbox/internal/session", "may not import"},
		{"the simulator speaks from outside", "internal/sim", "signalbox/internal/gateway/ws", "may not import"},
		{"history uses the store", "internal/history", "signalbox/internal/store", ""},
		{"the store uses no history", "internal/store", "signalbox/internal/history", "may not import"},
		{"all use the nouns", "internal/wire", "signalbox", ""},
		{"the client is by itself", "client", "signalbox/internal/wire", "may not import"},
		{"the client uses a library", "client", "github.com/coder/websocket", ""},
		{"the nouns use the standard library", "", "encoding/json", ""},
		{"the nouns use no library", "", "github.com/tidwall/gjson", "standard library"},
		{"the nouns use no room", "", "signalbox/internal/wire", "may not import"},
		{"a library with our name in front is not ours", "client", "signalboxes.example/x", ""},
	}
	plan := floorPlan()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := check(plan, tt.importer, tt.imported)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && err == nil:
				t.Errorf("%q passed as an import of %q", tt.imported, tt.importer)
			case tt.want != "" && !strings.Contains(err.Error(), tt.want):
				t.Errorf("error %q does not say %q", err, tt.want)
			}
		})
	}
	if known(plan, "internal/attic") {
		t.Error("the plan knows a package that is not in it")
	}
}

// check says whether the plan lets package importer import the path imported. A package the plan does not know
// passes here; the caller reports it once.
func check(plan []room, importer, imported string) error {
	i := slices.IndexFunc(plan, func(r room) bool { return r.name == importer })
	if i < 0 {
		return nil
	}
	name, ours := strings.CutPrefix(imported, module+"/")
	if imported == module {
		name, ours = "", true
	}
	if !ours {
		host, _, _ := strings.Cut(imported, "/")
		if importer == "" && (strings.Contains(host, ".") || host == "C") {
			return fmt.Errorf("the root package imports %s; it may import the standard library only", imported)
		}
		return nil
	}
	if slices.Contains(plan[i].may, name) {
		return nil
	}
	return fmt.Errorf("%s may not import %s: imports run strictly downward, and floorPlan in internal/layers_test.go "+
		"allows it %s", title(importer), title(name), titles(plan[i].may))
}

func known(plan []room, name string) bool {
	return slices.ContainsFunc(plan, func(r room) bool { return r.name == name })
}

func title(name string) string {
	if name == "" {
		return "the root package"
	}
	return name
}

func titles(names []string) string {
	if len(names) == 0 {
		return "no package of this module"
	}
	words := make([]string, 0, len(names))
	for _, name := range names {
		words = append(words, title(name))
	}
	return strings.Join(words, ", ")
}

// readPackages reads the imports of every package below dir that belongs to the module, whatever system its files
// are for, tests left out: for each package's name, each imported path and a file that imports it.
func readPackages(dir string) (map[string]map[string]string, error) {
	packages := make(map[string]map[string]string)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipFolder(dir, path, entry.Name())
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		name, err := filepath.Rel(dir, filepath.Dir(path))
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if name == "." {
			name = ""
		}
		return readImports(packages, name, path)
	})
	return packages, err
}

// skipFolder returns fs.SkipDir for what the go command leaves out of ./... too, and for what is built or fetched.
func skipFolder(root, path, base string) error {
	if path == root {
		return nil
	}
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules" {
		return fs.SkipDir
	}
	switch _, err := os.Stat(filepath.Join(path, "go.mod")); {
	case err == nil:
		return fs.SkipDir // a module of its own
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

func readImports(packages map[string]map[string]string, name, path string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		return err
	}
	if packages[name] == nil {
		packages[name] = make(map[string]string)
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", path, spec.Path.Value, err)
		}
		packages[name][imported] = strings.TrimPrefix(filepath.ToSlash(path), "../")
	}
	return nil
}
