package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"signalbox/internal/app"
)

// oneOf refuses a flag's word that is none of those allowed.
func oneOf(flag, word string, allowed []string) error {
	if slices.Contains(allowed, word) {
		return nil
	}
	words := strings.Join(allowed, ", ")
	if at := strings.LastIndex(words, ", "); at >= 0 {
		words = words[:at] + " and " + words[at+2:]
	}
	hint := ""
	if near := app.Nearest(word, allowed); near != "" {
		hint = fmt.Sprintf("; the nearest is %s", near)
	}
	return usagef("--%s %s: allowed are %s%s", flag, word, words, hint)
}

// emptyFlag refuses a flag that was given without a value, as by an unset variable of a
// shell: it would count as not given, and something else would be done than was meant.
func emptyFlag(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		empty := f.Value.String() == ""
		if list, ok := f.Value.(pflag.SliceValue); ok {
			empty = len(list.GetSlice()) == 0 || slices.Contains(list.GetSlice(), "")
		}
		if empty && err == nil {
			err = usagef("--%s is empty; give it a value, or leave it out", f.Name)
		}
	})
	return err
}

// flagFault puts what the flag library says into plain words.
func flagFault(cmd *cobra.Command, err error) error {
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		allowed := map[string]string{
			"int": "a whole number", "uint64": "a whole number that is not negative", "float64": "a number such as 0.1",
			"duration": "a duration such as 500ms, 10s or 5m", "bool": "true or false",
		}[e.GetFlag().Value.Type()]
		if allowed != "" {
			return usagef("--%s %s: allowed is %s", e.GetFlag().Name, sentValue(e.GetValue()), allowed)
		}
	}
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		if args := cmd.Flags().Args(); cmd.HasAvailableSubCommands() && len(args) > 0 {
			return noSuchCommand(cmd, args) // what is in front of the flag; whose flag it is nobody knows
		}
		if e.GetSpecifiedShortnames() != "" {
			return usagef("%s has no flag -%s", cmd.CommandPath(), e.GetSpecifiedName())
		}
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		hint := ""
		if near := app.Nearest(e.GetSpecifiedName(), names); near != "" {
			hint = "; the nearest is --" + near
		}
		return usagef("%s has no flag --%s%s", cmd.CommandPath(), e.GetSpecifiedName(), hint)
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return usagef("--%s needs a value", e.GetSpecifiedName())
	}
	return usageError{err}
}

// between asks for low to high arguments, none of them empty; the command's usage line
// names them. high -1 is any number.
func between(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if slices.Contains(args, "") {
			return usagef("an argument is empty: %s", cmd.UseLine())
		}
		return count(cmd, args, low, high)
	}
}

func count(cmd *cobra.Command, args []string, low, high int) error {
	switch {
	case len(args) < low:
		return usagef("something is missing: %s", cmd.UseLine())
	case high >= 0 && len(args) > high:
		return usagef("%q is too much: %s", sentValue(args[high]), cmd.UseLine())
	default:
		return nil
	}
}

// prepareArgs gives «send» two freedoms that flags do not have: --wait may stand alone or
// be followed by a duration, and a value may begin with a minus sign. A number behind
// --wait is taken for a duration that lacks its unit, never for the command's value. A
// negative number is marked with a NUL, which arguments of a process cannot hold; see
// sentValue.
func prepareArgs(args []string) []string {
	out := make([]string, 0, len(args)) // not nil, by which cobra means the arguments of this process
	send := false
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			return append(out, args[i:]...)
		case arg == "send":
			send = true
		case send && arg == "--wait" && i+1 < len(args) && likeDuration(args[i+1]):
			i++
			arg += "=" + args[i]
		case send && negative(arg) && !takesValue(args[i-1]):
			arg = negativeMark + arg
		}
		out = append(out, arg)
	}
	return out
}

// likeDuration says whether arg is a duration, or a number that may have been meant as one.
func likeDuration(arg string) bool {
	_, err := app.ParseDuration(arg)
	return err == nil || noUnit(arg) || negative(arg)
}

// noUnit says whether arg is a plain number.
func noUnit(arg string) bool {
	return arg != "" && strings.Trim(arg, "0123456789.") == "" && strings.Trim(arg, ".") != ""
}

// takesValue says whether what stands behind arg belongs to it.
func takesValue(arg string) bool {
	switch arg {
	case "--replace", "--json", "--wait":
		return false
	default:
		return strings.HasPrefix(arg, "--") && !strings.Contains(arg, "=")
	}
}

const negativeMark = "\x00"

// negative says whether arg begins like a negative number; no flag does.
func negative(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && (arg[1] == '.' || arg[1] >= '0' && arg[1] <= '9')
}

// sentValue undoes what prepareArgs did to a negative number.
func sentValue(arg string) string { return strings.TrimPrefix(arg, negativeMark) }
