package machines

import (
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"

	"lighter/internal/tomlfile"
	"lighter/machines/scheme"
)

// guixMachine is Guix's record of a machine, <build-machine> in guix/scripts/offload.scm.
var guixMachine = &scheme.RecordType{Name: "build-machine", Fields: []scheme.RecordField{
	{Name: "name", Required: true, Accessor: "build-machine-name"},
	{Name: "port", Accessor: "build-machine-port"},
	{Name: "systems", Accessor: "build-machine-systems"},
	{Name: "system"},
	{Name: "user", Required: true, Accessor: "build-machine-user"},
	{Name: "private-key", Accessor: "build-machine-private-key"},
	{Name: "host-key", Required: true, Accessor: "build-machine-host-key"},
	{Name: "compression", Accessor: "build-machine-compression"},
	{Name: "compression-level"},
	{Name: "daemon-socket", Accessor: "build-machine-daemon-socket"},
	{Name: "overload-threshold", Accessor: "build-machine-overload-threshold"},
	{Name: "parallel-builds"},
	{Name: "speed"},
	{Name: "features", Accessor: "build-machine-features"},
	{Name: "location", Accessor: "build-machine-location", Innate: true},
}}

func schemeOptions(limits scheme.Limits) scheme.Options {
	return scheme.Options{Getenv: os.LookupEnv, Records: []*scheme.RecordType{guixMachine}, Limits: limits}
}

// ParseGuix reads and checks the contents of a file such as Guix's
// /etc/guix/machines.scm: a program in Scheme whose last value is a list of
// build-machine. Package scheme says what of Scheme is understood; a program
// beyond that gives an error that matches *[scheme.Unsupported]. The program sees the
// variables of the environment, and nothing else.
//
// As in Guix, a last value that is not a list of machines gives a warning and no machine.
// What Guix allows and would never work, such as a machine without systems, is an
// error. The machines have the store StoreDaemon, and names made of their hosts. A
// private key that the file does not name is left to ssh-agent and the usual keys.
func ParseGuix(file string, data []byte) (all []Machine, warnings []*Error, err error) {
	return parseGuix(file, data, scheme.Limits{})
}

func parseGuix(file string, data []byte, limits scheme.Limits) (all []Machine, warnings []*Error, err error) {
	d := newDecoder(file, data, Guix)
	opts := schemeOptions(limits)
	value, at, err := scheme.Eval(d.Doc, opts)
	if err != nil {
		d.schemeError(err, opts)
		return nil, nil, d.Err()
	}
	records, ok := machineRecords(value)
	if !ok {
		d.Warnf(at, "the last value of the file is the list: (list (build-machine …) …)",
			"the file's value is %s, not a list of build-machine; Guix ignores such a file", valueText(value))
		return nil, d.Warnings, nil
	}
	return d.guixMachines(records)
}

func valueText(v scheme.Value) string {
	if v == scheme.Value(scheme.Unspecified{}) {
		return "nothing"
	}
	return scheme.Write(v, 40)
}

// machineRecords returns the elements of a list of machines.
func machineRecords(v scheme.Value) ([]*scheme.Record, bool) {
	elems, ok := scheme.List(v)
	records := make([]*scheme.Record, len(elems))
	for i, e := range elems {
		r, isRecord := e.(*scheme.Record)
		ok = ok && isRecord
		records[i] = r
	}
	return records, ok
}

// schemeError reports why a program could not be evaluated.
func (d *decoder) schemeError(err error, opts scheme.Options) {
	var (
		wrong  *scheme.Error
		absent *scheme.Unsupported
		limit  *scheme.LimitError
	)
	switch {
	case errors.As(err, &wrong):
		hint := wrong.Hint
		if near := tomlfile.Nearest(wrong.Word, wrong.Known); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		d.Errorf(wrong.Offset, hint, "%s", wrong.Message)
	case errors.As(err, &absent):
		d.Errorf(absent.Offset, d.insteadOf(absent, opts), "%s", absent.Message())
	case errors.As(err, &limit):
		d.Errorf(limit.Offset, "", "%s", limit.Limit)
	default:
		d.Errorf(0, "", "%s", err)
	}
	d.Errs[len(d.Errs)-1].Err = err
}

// insteadOf says what a person can do about a program that is beyond package scheme.
func (d *decoder) insteadOf(absent *scheme.Unsupported, opts scheme.Options) string {
	if strings.Contains(d.Doc, "(operating-system") {
		return "this is the configuration of a Guix System, which writes its machines to /etc/guix/machines.scm: read that file"
	}
	hint := `"guix repl", where there is one, evaluates all of Scheme ("lighter machines import" asks it);`
	if near := tomlfile.Nearest(absent.Form, absent.Known()); near != "" {
		hint = fmt.Sprintf("did you mean %q? If not: ", near) + hint
	}
	return hint + "\n    or write the machines in TOML:\n" + indent(d.template(opts))
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ")
}

// templateMachines bounds how many machines a template shows.
const templateMachines = 3

// template returns TOML for the machines of a program that could not be evaluated, with
// "…" for the values that could not be read.
func (d *decoder) template(opts scheme.Options) string {
	records := scheme.Salvage(d.Doc, opts, templateMachines+1)
	if len(records) == 0 {
		records = []*scheme.Record{{Type: guixMachine}}
	}
	more := ""
	if len(records) > templateMachines {
		more = "\n# … and more"
		records = records[:templateMachines]
	}
	var texts []string
	for _, r := range records {
		var b strings.Builder
		b.WriteString("[[machine]]\n")
		for _, key := range []string{
			"name", "port", "systems", "user", "private-key", "host-key", "parallel-builds", "speed", "features",
			"overload-threshold", "daemon-socket",
		} {
			f, given := r.Fields[key]
			if key == "systems" && !given {
				f, given = r.Fields["system"]
			}
			if guixRequires(key) || given {
				fmt.Fprintf(&b, "%s = %s\n", key, templateValue(key, f.Value))
			}
		}
		texts = append(texts, b.String())
	}
	return strings.Join(texts, "\n") + more
}

func guixRequires(key string) bool {
	return key == "systems" || slices.ContainsFunc(guixMachine.Fields, func(f scheme.RecordField) bool { return f.Name == key && f.Required })
}

func templateValue(key string, v scheme.Value) string {
	plain, _ := plainValue(v, 0)
	var text string
	switch x := plain.(type) {
	case string:
		if text = tomlfile.Quote(x); key == "systems" {
			text = "[" + text + "]"
		}
	case int64:
		text = fmt.Sprint(x)
	case float64:
		text = tomlfile.FormatFloat(x)
	case bool:
		text = fmt.Sprint(x)
	case []any:
		var texts []string
		for _, e := range x {
			s, _ := e.(string)
			texts = append(texts, s)
		}
		text = tomlfile.QuoteList(texts)
	case tomlfile.OtherValue:
		if key == "systems" || key == "features" {
			return `["…"]`
		}
		return `"…"`
	}
	return cutLong(text)
}

func cutLong(text string) string {
	const longest = 100
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}

// guixMachines turns records into machines.
func (d *decoder) guixMachines(records []*scheme.Record) ([]Machine, []*Error, error) {
	all := make([]Machine, 0, len(records))
	for _, r := range records {
		all = append(all, d.guixMachine(r))
	}
	if err := d.Err(); err != nil {
		return nil, nil, err
	}
	nameMachines(all)
	if len(all) == 0 {
		all = nil
	}
	return all, d.Warnings, nil
}

// guixFields read Guix's fields that lighter's files have too, but for name.
var guixFields = map[string]func(d *decoder, m *Machine, v any, at *tomlfile.Place){
	"name": func(d *decoder, m *Machine, v any, at *tomlfile.Place) { d.hostNamed("name", m, v, at) },
	"port": (*decoder).port,
	"user": (*decoder).user,
	"host-key": func(d *decoder, m *Machine, v any, at *tomlfile.Place) {
		if text, ok := v.(string); ok {
			v = strings.TrimSpace(text) // of a whole .pub file
		}
		d.hostKey(m, v, at)
	},
	"parallel-builds": (*decoder).parallelBuilds,
	"speed":           (*decoder).speed,
	"features": func(d *decoder, m *Machine, v any, at *tomlfile.Place) {
		m.Features = d.features("features", v, at)
	},
	"overload-threshold": (*decoder).overloadThreshold,
	"daemon-socket":      (*decoder).guixDaemonSocket,
	"private-key": func(d *decoder, m *Machine, v any, at *tomlfile.Place) {
		if off, ok := v.(bool); !ok || off { // #f is what Guix has without a home folder
			d.privateKey(m, v, at)
		}
	},
}

func (d *decoder) guixMachine(r *scheme.Record) Machine {
	m := defaults()
	m.Store = StoreDaemon
	m.SSHConfig = SSHConfigNone // Guix reads none
	for _, f := range guixMachine.Fields {
		given, ok := r.Fields[f.Name]
		if read := guixFields[f.Name]; ok && read != nil {
			v, at := plainValue(given.Value, given.At)
			read(d, &m, v, at)
		}
	}
	m.PortGiven = m.Port != DefaultPort // Guix's record always has one
	d.guixSystems(&m, r)
	for _, name := range []string{"compression", "compression-level"} {
		f, ok := r.Fields[name]
		if said := slices.ContainsFunc(d.Warnings, func(w *Error) bool { return strings.HasPrefix(w.Message, name+" ") }); ok && f.Given && !said {
			d.Warnf(f.Name, "", "%s has no effect: lighter's SSH connections are not compressed", name)
		}
	}
	return m
}

// guixSystems reads systems, or the deprecated system. As in Guix, systems wins.
func (d *decoder) guixSystems(m *Machine, r *scheme.Record) {
	systems, many := r.Fields["systems"]
	system, one := r.Fields["system"]
	name := "the machine"
	if s, ok := r.Fields["name"].Value.(*scheme.String); ok {
		name = fmt.Sprintf("the machine %q", s.Text)
	}
	switch {
	case many:
		v, at := plainValue(systems.Value, systems.At)
		if _, ok := v.(string); ok {
			d.Errorf(at.Value, d.example("systems", `["x86_64-linux"]`), "systems is a string; want a list of strings")
			return
		}
		d.systems(m, v, at)
		if one && system.Given && systems.Given {
			d.Warnf(system.Name, "leave it out", "system has no effect next to systems")
		}
	case one:
		v, at := plainValue(system.Value, system.At)
		if text, ok := d.Text("system", v, at); ok {
			d.systems(m, text, at)
			d.Warnf(system.Name, d.example("systems", "["+tomlfile.Quote(text)+"]"), "the field system is deprecated")
		}
	default:
		d.Errorf(r.At, "add "+d.example("systems", `["x86_64-linux"]`), "%s has no systems", name)
	}
}

// guixDaemonSocket accepts a file name, or a URI of a file. Guix has other URIs too,
// for daemons that are not on the machine.
func (d *decoder) guixDaemonSocket(m *Machine, v any, at *tomlfile.Place) {
	uri, ok := v.(string)
	if !ok {
		d.daemonSocket(m, v, at)
		return
	}
	scheme, rest, isURI := strings.Cut(uri, ":")
	switch {
	case !isURI || strings.HasPrefix(uri, "/"):
		d.daemonSocket(m, v, at)
	case scheme == "file" || scheme == "unix":
		d.daemonSocket(m, strings.TrimPrefix(rest, "//"), at)
	default:
		d.Errorf(at.Value, d.example("daemon-socket", tomlfile.Quote(DefaultDaemonSocket)),
			"daemon-socket is %q; lighter's agent connects to a socket on its own machine", uri)
	}
}

// plainValue turns a value of Scheme into one as the TOML library returns it, with its
// place: that of the literal, else at.
func plainValue(v scheme.Value, at int) (any, *tomlfile.Place) {
	n := &tomlfile.Place{Key: at, Value: at}
	switch x := v.(type) {
	case *scheme.String:
		if x.At >= 0 {
			n.Value = x.At
		}
		return x.Text, n
	case bool:
		return x, n
	case float64:
		return x, n
	case *big.Rat:
		if x.IsInt() && x.Num().IsInt64() {
			return x.Num().Int64(), n
		}
		f, _ := x.Float64()
		return f, n
	case nil:
		return tomlfile.OtherValue("nothing"), n
	}
	elems, ok := scheme.List(v)
	if !ok {
		return tomlfile.OtherValue(valueText(v)), n
	}
	plain := make([]any, 0, len(elems))
	for _, e := range elems {
		if _, isPair := e.(*scheme.Pair); isPair { // deeper lists mean nothing here
			plain, n.Elems = append(plain, tomlfile.OtherValue("a list")), append(n.Elems, &tomlfile.Place{Key: at, Value: at})
			continue
		}
		p, place := plainValue(e, at)
		plain, n.Elems = append(plain, p), append(n.Elems, place)
	}
	return plain, n
}
