package machines

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxBuilds bounds parallel-builds and port bounds itself.
const maxBuilds = 10000

// ParseTOML reads and checks the contents of a machines file. The name of the file
// is for errors alone. A file without any machine is good. All that is wrong is
// reported at once, as Errors; with wrong syntax, the first place alone.
func ParseTOML(file string, data []byte) ([]Machine, error) {
	d := newDecoder(file, data, TOML)
	places := locate(d.doc)
	if places.tooDeep >= 0 {
		d.errorf(places.tooDeep, "", "more than %d tables or lists in each other are no machines file", maxDepth)
		return nil, d.err()
	}
	var document map[string]any
	if _, err := toml.Decode(d.doc, &document); err != nil {
		d.syntaxError(err)
		return nil, d.err()
	}
	if places.twice >= 0 {
		d.errorf(places.twice, "leave one of them out", "the key is there twice")
	}
	all := d.document(document, places.root)
	if err := d.err(); err != nil {
		return nil, err
	}
	return all, nil
}

// decoder turns a parsed document into machines and reports all that is wrong.
type decoder struct {
	reporter
	format Format
}

func newDecoder(file string, data []byte, format Format) *decoder {
	return &decoder{reporter: reporter{file: file, doc: strings.TrimPrefix(string(data), "\ufeff")}, format: format}
}

// example writes a field with a value as a file of the decoder's format has it; for
// hints. The value is written as in TOML.
func (d *decoder) example(key, value string) string {
	switch d.format {
	case Guix:
		if inner, ok := strings.CutPrefix(value, "["); ok {
			value = "(list " + strings.ReplaceAll(strings.TrimSuffix(inner, "]"), ",", "") + ")"
		}
		return "(" + key + " " + value + ")"
	case Nix:
		return strings.NewReplacer(`"`, "", "[", "", "]", "", " ", "").Replace(value)
	}
	return key + " = " + value
}

// boolean is how the decoder's format writes true or false.
func (d *decoder) boolean(v bool) string {
	if d.format == Guix {
		return map[bool]string{true: "#t", false: "#f"}[v]
	}
	return fmt.Sprint(v)
}

func (d *decoder) syntaxError(err error) {
	var syntax toml.ParseError
	if !errors.As(err, &syntax) {
		d.errorf(0, "", "%s", strings.TrimPrefix(err.Error(), "toml: "))
		return
	}
	var hint string
	if strings.HasPrefix(syntax.Message, "expected value but found") {
		hint = `a string stands in quotes: key = "value"`
	}
	d.errorf(syntax.Position.Start, hint, "%s", syntax.Message)
}

func (d *decoder) document(document map[string]any, at *node) []Machine {
	for key := range document {
		if key != "machine" {
			d.unknownKey(key, at.at(key).key, []string{"machine"}, "each machine starts with a line [[machine]]")
		}
	}
	found, ok := document["machine"]
	if !ok {
		return nil
	}
	at = at.at("machine")
	tables, ok := tablesOf(found)
	if !ok {
		d.errorf(at.key, "start each machine with a line [[machine]], in two pairs of brackets",
			"machine is %s, not a list of tables", typeName(found))
		return nil
	}
	var all []Machine
	first := make(map[string]int) // name to line
	for i, table := range tables {
		where := at.elem(i)
		m := d.machine(table, where)
		all = append(all, m)
		if m.Name == "" {
			continue
		}
		name := where.at("name").value
		line, _, _ := d.position(name)
		if earlier, ok := first[m.Name]; ok {
			d.errorf(name, "give each machine a name of its own; the address can stand in host",
				"machine %q is already on line %d", m.Name, earlier)
			continue
		}
		first[m.Name] = line
	}
	return all
}

// tablesOf accepts both [[machine]] and machine = [{…}].
func tablesOf(v any) ([]map[string]any, bool) {
	switch v := v.(type) {
	case []map[string]any:
		return v, true
	case []any:
		tables := make([]map[string]any, len(v))
		for i, elem := range v {
			table, ok := elem.(map[string]any)
			if !ok {
				return nil, false
			}
			tables[i] = table
		}
		return tables, true
	}
	return nil, false
}

// field reads one key of a machine. at is the position of the key and its value.
type field struct {
	key  string
	read func(d *decoder, m *Machine, v any, at *node)
	// ssh says that the key has no meaning for a local machine.
	ssh bool
}

// fields in the order in which FormatTOML writes them.
var fields = []field{
	{key: "name", read: (*decoder).name},
	{key: "host", read: (*decoder).host, ssh: true},
	{key: "port", read: (*decoder).port, ssh: true},
	{key: "local", read: (*decoder).local},
	{key: "systems", read: (*decoder).systems},
	{key: "system", read: (*decoder).systems},
	{key: "user", read: (*decoder).user, ssh: true},
	{key: "private-key", read: (*decoder).privateKey, ssh: true},
	{key: "host-key", read: (*decoder).hostKey, ssh: true},
	{key: "parallel-builds", read: (*decoder).parallelBuilds},
	{key: "speed", read: (*decoder).speed},
	{key: "features", read: func(d *decoder, m *Machine, v any, at *node) { m.Features = d.features("features", v, at) }},
	{key: "mandatory-features", read: func(d *decoder, m *Machine, v any, at *node) {
		m.MandatoryFeatures = d.features("mandatory-features", v, at)
	}},
	{key: "overload-threshold", read: (*decoder).overloadThreshold},
	{key: "min-free-disk", read: (*decoder).minFreeDisk},
	{key: "store", read: (*decoder).store},
	{key: "daemon-socket", read: (*decoder).daemonSocket},
	{key: "sandbox-paths", read: (*decoder).sandboxPaths},
	{key: "state-directory", read: (*decoder).stateDirectory},
}

var keyNames = func() []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.key
	}
	return names
}()

// defaults returns a machine for which the file says nothing.
func defaults() Machine {
	return Machine{
		Port:              DefaultPort,
		ParallelBuilds:    DefaultParallelBuilds,
		Speed:             DefaultSpeed,
		OverloadThreshold: DefaultOverloadThreshold,
		MinFreeDisk:       DefaultMinFreeDisk,
		Store:             StoreAuto,
		DaemonSocket:      DefaultDaemonSocket,
	}
}

func (d *decoder) machine(table map[string]any, at *node) Machine {
	m := defaults()
	for _, f := range fields {
		if v, ok := table[f.key]; ok {
			f.read(d, &m, v, at.at(f.key))
		}
	}
	for key := range table {
		if !slices.Contains(keyNames, key) {
			d.unknownKey(key, at.at(key).key, keyNames, "the keys are "+strings.Join(keyNames, ", "))
		}
	}
	d.required(table, at)
	if m.Local {
		m.Host, m.Port = "", 0
		for _, f := range fields {
			if _, ok := table[f.key]; ok && f.ssh {
				d.errorf(at.at(f.key).key, "leave it out, or leave local out",
					"%s has no meaning for the local machine, which is reached without SSH", f.key)
			}
		}
	} else if m.Host == "" {
		m.Host = m.Name
	}
	return m
}

func (d *decoder) required(table map[string]any, at *node) {
	of := ""
	if name, ok := table["name"].(string); ok {
		of = fmt.Sprintf(" %q", name)
	}
	if _, ok := table["name"]; !ok {
		d.errorf(at.key, `add a line such as name = "builder1.example.org"`, "a machine without a name")
	}
	local, _ := table["local"].(bool)
	if _, ok := table["user"]; !ok && !local {
		d.errorf(at.key, `add a line such as user = "offload"`, "the machine%s has no user", of)
	}
	_, one := table["system"]
	_, many := table["systems"]
	switch {
	case one && many:
		second := max(at.at("system").key, at.at("systems").key)
		d.errorf(second, "write them all in one list, systems", "the machine%s has both system and systems", of)
	case !one && !many:
		d.errorf(at.key, `add a line such as systems = ["x86_64-linux"]`, "the machine%s has no systems", of)
	}
}

func (d *decoder) unknownKey(key string, offset int, known []string, otherwise string) {
	hint := otherwise
	if near := nearest(key, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	d.errorf(offset, hint, "unknown key %q", key)
}

func (d *decoder) name(m *Machine, v any, at *node) {
	const hint = "a name has letters, digits, dots, dashes and underscores; an address of another kind goes into host"
	name, ok := d.text("name", v, at)
	if !ok {
		return
	}
	m.Name = name
	switch user, host, hasUser := strings.Cut(name, "@"); {
	case hasUser:
		d.errorf(at.value, fmt.Sprintf("write name = %s and user = %s", quote(host), quote(user)), "the name %q has a user in it", name)
	case len(name) > 253:
		d.errorf(at.value, hint, "the name has more than 253 characters")
	case strings.HasPrefix(name, "-"), strings.Trim(name, ".") == "", strings.Trim(name, nameCharacters) != "":
		d.errorf(at.value, hint, "%q cannot be a machine's name", name)
	}
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

func (d *decoder) host(m *Machine, v any, at *node) {
	d.hostNamed("host", m, v, at)
}

// hostNamed reads the host from a field with that name.
func (d *decoder) hostNamed(key string, m *Machine, v any, at *node) {
	host, ok := d.text(key, v, at)
	if !ok {
		return
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	m.Host = host
	isIPv6 := strings.Count(host, ":") > 1
	name, port, hasPort := strings.Cut(host, ":")
	switch {
	case strings.Contains(host, "@"):
		d.errorf(at.value, "write the user into user", "the host %q has a user in it", host)
	case hasPort && !isIPv6:
		d.errorf(at.value, fmt.Sprintf("write %s and %s", d.example(key, quote(name)), d.example("port", port)), "the host %q has a port in it", host)
	case strings.HasPrefix(host, "-"), len(host) > 253, strings.Trim(host, nameCharacters+":%") != "":
		d.errorf(at.value, "a host name or an IP address", "%q cannot be a host", host)
	}
}

func (d *decoder) port(m *Machine, v any, at *node) {
	m.Port = d.integer("port", v, at, 1, 65535, d.example("port", "22"))
}

func (d *decoder) local(m *Machine, v any, at *node) {
	local, ok := v.(bool)
	if !ok {
		d.wrongType("local", v, at, "true or false", "local = true")
	}
	m.Local = local
}

func (d *decoder) systems(m *Machine, v any, at *node) {
	var systems []string
	var places []*node
	if one, ok := v.(string); ok {
		systems, places = []string{one}, []*node{at}
	} else {
		systems, places = d.texts("systems", v, at, d.example("systems", `["x86_64-linux"]`))
		if list, ok := v.([]any); ok && len(list) == 0 {
			d.errorf(at.value, d.example("systems", `["x86_64-linux"]`), "systems is empty: the machine would get no build")
		}
	}
	for i, system := range systems {
		d.system(system, places[i])
	}
	m.Systems = systems
}

func (d *decoder) system(system string, at *node) {
	if slices.Contains(knownSystems, system) {
		return
	}
	near := nearest(system, knownSystems)
	machine, kernel, ok := strings.Cut(system, "-")
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789_"
	wellFormed := ok && machine != "" && kernel != "" && strings.Trim(machine+kernel, letters) == ""
	// A system that nobody here has heard of is accepted, unless it looks like a
	// slip of the pen: a machine with a wrong system would wait in silence.
	if wellFormed && (near == "" || editDistance(system, near) > 2) {
		return
	}
	hint := `a system is an architecture and a kernel, such as "x86_64-linux"`
	if near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	d.errorf(at.value, hint, "unknown system %q", system)
}

// knownSystems are those of Guix, and others that Nix knows.
var knownSystems = []string{
	"x86_64-linux", "i686-linux", "aarch64-linux", "armhf-linux", "powerpc-linux", "powerpc64le-linux",
	"riscv64-linux", "mips64el-linux", "i586-gnu", "x86_64-gnu", "loongarch64-linux",
	"armv5tel-linux", "armv6l-linux", "armv7l-linux", "armv7a-linux", "i386-linux", "i486-linux", "i586-linux",
	"m68k-linux", "mips-linux", "mipsel-linux", "mips64-linux", "powerpc64-linux", "powerpcle-linux",
	"riscv32-linux", "s390-linux", "s390x-linux", "sparc-linux", "sparc64-linux", "alpha-linux",
	"x86_64-darwin", "aarch64-darwin", "x86_64-freebsd", "aarch64-freebsd", "i686-freebsd",
	"x86_64-netbsd", "x86_64-openbsd", "x86_64-solaris",
}

func (d *decoder) user(m *Machine, v any, at *node) {
	user, ok := d.text("user", v, at)
	if ok && (strings.ContainsAny(user, " \t\n:@/") || strings.HasPrefix(user, "-")) {
		d.errorf(at.value, d.example("user", `"offload"`), "%q cannot be the name of a user", user)
	}
	m.User = user
}

func (d *decoder) privateKey(m *Machine, v any, at *node) {
	file, ok := d.text("private-key", v, at)
	if ok {
		m.PrivateKey = file
		d.checkPath("private-key", file, at, strings.HasPrefix(file, "~/"), d.example("private-key", `"~/.ssh/id_ed25519"`))
	}
}

func (d *decoder) hostKey(m *Machine, v any, at *node) {
	text, ok := d.text("host-key", v, at)
	if !ok {
		return
	}
	key, wrong := parseHostKey(text)
	m.HostKey = key
	if wrong == nil {
		return
	}
	offset := at.value
	// The offset in the value is that in the file only where the string is
	// written plainly, between single quotation marks.
	if at.value+1+len(text) <= len(d.doc) && d.doc[at.value+1:at.value+1+len(text)] == text {
		offset += 1 + wrong.offset
	}
	d.errorf(offset, wrong.hint, "%s", wrong.message)
}

func (d *decoder) parallelBuilds(m *Machine, v any, at *node) {
	m.ParallelBuilds = d.integer("parallel-builds", v, at, 1, maxBuilds, d.example("parallel-builds", "4"))
}

func (d *decoder) speed(m *Machine, v any, at *node) {
	hint := d.example("speed", "2.0") + " for a machine that is twice as fast as one of speed 1"
	speed, ok := number(v)
	switch {
	case !ok:
		d.wrongType("speed", v, at, "a number", hint)
	case !(speed >= 1e-6 && speed <= 1e6): // also refuses NaN
		d.errorf(at.value, hint, "speed is %v; want a number from 0.000001 to 1000000", v)
	}
	m.Speed = speed
}

func (d *decoder) features(key string, v any, at *node) []string {
	features, places := d.texts(key, v, at, d.example(key, `["kvm", "big-parallel"]`))
	for i, feature := range features {
		if strings.ContainsAny(feature, ", \t\n\r") {
			d.errorf(places[i].value, "write each feature as a string of its own, in a list", "the feature %q is not one word", feature)
		}
	}
	return features
}

func (d *decoder) overloadThreshold(m *Machine, v any, at *node) {
	hint := fmt.Sprintf("%s gives the machine no build while its load per core is 0.8 or more; %s disregards the load",
		d.example("overload-threshold", "0.8"), d.boolean(false))
	if off, ok := v.(bool); ok && !off {
		m.OverloadThreshold = 0
		return
	}
	threshold, ok := number(v)
	switch {
	case !ok:
		d.wrongType("overload-threshold", v, at, "a number, or "+d.boolean(false), hint)
	case !(threshold > 0 && threshold <= 1000): // also refuses NaN
		d.errorf(at.value, hint, "overload-threshold is %v; want a number above 0 and up to 1000, or %s", v, d.boolean(false))
	}
	m.OverloadThreshold = threshold
}

func (d *decoder) minFreeDisk(m *Machine, v any, at *node) {
	const hint = `min-free-disk = "100MiB"; the units are B, kB, KiB, MB, MiB, GB, GiB, TB, TiB, PB, PiB`
	switch v := v.(type) {
	case int64:
		if v < 0 {
			d.errorf(at.value, hint, "min-free-disk is %d; want 0 or more", v)
		}
		m.MinFreeDisk = v
	case string:
		size, err := parseSize(v)
		if err != nil {
			d.errorf(at.value, hint, "min-free-disk is %q, which is no size: %v", v, err)
		}
		m.MinFreeDisk = size
	default:
		d.wrongType("min-free-disk", v, at, "a size", hint)
	}
}

func (d *decoder) store(m *Machine, v any, at *node) {
	kinds := []string{StoreAuto, StoreDaemon, StoreLocal}
	kind, ok := d.text("store", v, at)
	if ok && !slices.Contains(kinds, kind) {
		hint := `the kinds are "auto", "guix-daemon" and "local"`
		if near := nearest(kind, kinds); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		d.errorf(at.value, hint, "unknown kind of store %q", kind)
	}
	m.Store = kind
}

func (d *decoder) daemonSocket(m *Machine, v any, at *node) {
	file, ok := d.text("daemon-socket", v, at)
	if ok {
		d.checkPath("daemon-socket", file, at, false, d.example("daemon-socket", quote(DefaultDaemonSocket)))
	}
	m.DaemonSocket = file
}

func (d *decoder) sandboxPaths(m *Machine, v any, at *node) {
	const hint = `sandbox-paths = ["/bin/sh", "/inside=/outside"]`
	entries, places := d.texts("sandbox-paths", v, at, hint)
	for i, entry := range entries {
		inside, outside, ok := strings.Cut(entry, "=")
		d.checkPath("sandbox-paths", inside, places[i], false, hint)
		if ok {
			d.checkPath("sandbox-paths", outside, places[i], false, hint)
		}
	}
	m.SandboxPaths = entries
}

func (d *decoder) stateDirectory(m *Machine, v any, at *node) {
	dir, ok := d.text("state-directory", v, at)
	if ok {
		d.checkPath("state-directory", dir, at, false, `state-directory = "/var/lib/lighter"`)
	}
	m.StateDirectory = dir
}

// checkPath refuses names of files that depend on where one stands.
func (d *decoder) checkPath(key, name string, at *node, otherwiseGood bool, hint string) {
	clean := path.IsAbs(name) && (path.Clean(name) == name || path.Clean(name)+"/" == name)
	if !clean && !otherwiseGood {
		d.errorf(at.value, hint, "%s: %q is not an absolute file name without . and .. in it", key, name)
	}
}

// text accepts a text that is not empty and has no control characters.
func (d *decoder) text(key string, v any, at *node) (string, bool) {
	text, ok := v.(string)
	if !ok {
		d.wrongType(key, v, at, "a string", d.example(key, `"…"`))
		return "", false
	}
	return text, d.checkText(key, text, at)
}

func (d *decoder) checkText(key, text string, at *node) bool {
	switch {
	case strings.TrimSpace(text) == "":
		d.errorf(at.value, "give it a value, or leave the line out", "%s is empty", key)
		return false
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		d.errorf(at.value, "", "%s has a control character", key)
		return false
	}
	return true
}

// texts accepts a list of texts, each once, and returns their positions too.
func (d *decoder) texts(key string, v any, at *node, hint string) (texts []string, places []*node) {
	list, ok := v.([]any)
	if !ok {
		d.wrongType(key, v, at, "a list of strings", hint)
		return nil, nil
	}
	there := make(map[string]bool)
	for i, elem := range list {
		place := at.elem(i)
		text, ok := elem.(string)
		switch {
		case !ok:
			d.errorf(place.value, hint, "%s has %s in its list; want strings", key, d.kindOf(elem))
		case strings.TrimSpace(text) == "":
			d.errorf(place.value, "leave it out", "%s has an empty string", key)
		case !d.checkText(key, text, place):
		case there[text]:
			d.errorf(place.value, "leave it out", "%s has %q twice", key, text)
		default:
			there[text] = true
			texts, places = append(texts, text), append(places, place)
		}
	}
	return texts, places
}

// integer accepts a whole number in the given range.
func (d *decoder) integer(key string, v any, at *node, least, most int, hint string) int {
	n, ok := v.(int64)
	switch {
	case !ok:
		d.wrongType(key, v, at, "a whole number", hint)
	case n < int64(least) || n > int64(most):
		d.errorf(at.value, hint, "%s is %d; want a number from %d to %d", key, n, least, most)
		n = int64(least)
	}
	return int(n)
}

// number accepts both 2 and 2.0.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, !math.IsNaN(v)
	}
	return 0, false
}

func (d *decoder) wrongType(key string, v any, at *node, want, hint string) {
	d.errorf(at.value, hint, "%s is %s; want %s", key, d.kindOf(v), want)
}

// kindOf says what kind of value v is, as the decoder's format calls it.
func (d *decoder) kindOf(v any) string {
	if b, ok := v.(bool); ok {
		return d.boolean(b)
	}
	return typeName(v)
}

// otherValue is a value that TOML does not have, such as a symbol: what it is.
type otherValue string

// typeName says what kind of value v is.
func typeName(v any) string {
	switch v := v.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		if math.IsNaN(v) {
			return "not a number"
		}
		return "a number with a fraction"
	case bool:
		return fmt.Sprint(v)
	case []any:
		return "a list"
	case []map[string]any:
		return "a list of tables"
	case map[string]any:
		return "a table"
	case otherValue:
		return string(v)
	}
	return "a date or time"
}
