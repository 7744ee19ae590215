package app

import (
	"fmt"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// readYAML gives what a file sets. The nodes are walked rather than decoded, because a
// fault should name its line.
func readYAML(name string, data []byte, faults *faults) []given {
	if len(strings.TrimSpace(string(data))) == 0 {
		return nil
	}
	r := yamlReader{name: filepath.ToSlash(name), faults: faults, seen: make(map[string]int), sections: sectionKeys()}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		faults.add("%s is not YAML: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if len(document.Content) == 0 {
		return nil // comments alone
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		if root.Tag != "!!null" {
			faults.add("%s:%d: the file must hold keys and values, such as «data: ./data»", r.name, root.Line)
		}
		return nil
	}
	r.section("", root)
	return r.all
}

type yamlReader struct {
	name     string
	faults   *faults
	seen     map[string]int      // line of each key
	sections map[string][]string // the keys in each
	all      []given
}

func (r *yamlReader) section(prefix string, node *yaml.Node) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := node.Content[i], node.Content[i+1]
		key := prefix + name.Value
		where := fmt.Sprintf("%s:%d", r.name, name.Line)
		if line, ok := r.seen[key]; ok {
			r.faults.add("%s: %s is set again; line %d has it already", where, key, line)
			continue
		}
		r.seen[key] = name.Line
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		_, isKey := settingOf(key)
		_, isSection := r.sections[key]
		switch {
		case isSection && value.Kind == yaml.MappingNode:
			r.section(key+".", value)
		case isSection && value.Tag == "!!null":
			// a section whose keys are all commented out
		case !isKey:
			r.faults.add("%s: %s", where, noSuchKey(key))
		case value.Kind == yaml.MappingNode:
			r.faults.add("%s: %s is a single key, not a section", where, key)
		default:
			r.all = append(r.all, given{key, spelled(value), where})
		}
	}
}

// spelled gives a value as it is spelled, which is all that a setting's parser needs.
func spelled(node *yaml.Node) any {
	switch {
	case node.Kind == yaml.SequenceNode:
		items := make([]any, 0, len(node.Content))
		for _, item := range node.Content {
			items = append(items, spelled(item))
		}
		return items
	case node.Kind == yaml.MappingNode:
		fields := make(map[string]any, len(node.Content)/2)
		for i := 0; i+1 < len(node.Content); i += 2 {
			fields[node.Content[i].Value] = spelled(node.Content[i+1])
		}
		return fields
	case node.Kind == yaml.AliasNode:
		return spelled(node.Alias)
	case node.Kind == yaml.ScalarNode && node.Tag != "!!null":
		return node.Value
	default:
		return nil
	}
}
