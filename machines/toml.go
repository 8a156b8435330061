package machines

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"lighter/internal/quantity"
	"lighter/internal/tomlfile"
)

// The greatest values of parallel-builds, parallel-transfers and build-cores: beyond any
// machine's, so that a digit too many is noticed.
const (
	maxBuilds    = 10000
	maxTransfers = 1000
	maxCores     = 100000
)

// ParseTOML reads and checks the contents of a machines file. The name of the file
// is for errors alone. A file without any machine is good. All that is wrong is
// reported at once, as Errors; with wrong syntax, the first place alone.
func ParseTOML(file string, data []byte) ([]Machine, error) {
	d := newDecoder(file, data, TOML)
	document, root, ok := d.Parse()
	if !ok {
		return nil, d.Err()
	}
	all := d.document(document, root)
	if err := d.Err(); err != nil {
		return nil, err
	}
	return all, nil
}

// decoder turns a parsed document into machines and reports all that is wrong.
type decoder struct {
	tomlfile.Decoder
	format Format
}

func newDecoder(file string, data []byte, format Format) *decoder {
	d := &decoder{Decoder: tomlfile.NewDecoder(file, data), format: format}
	d.Syntax = tomlfile.Syntax{Example: d.example, Boolean: d.boolean}
	return d
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

func (d *decoder) document(document map[string]any, at *tomlfile.Place) []Machine {
	for key := range document {
		if key != "machine" && key != "ssh-config" {
			d.UnknownKey(key, at.At(key).Key, []string{"machine", "ssh-config"}, "each machine starts with a line [[machine]]")
		}
	}
	var all Machine
	if v, ok := document["ssh-config"]; ok {
		d.sshConfig(&all, v, at.At("ssh-config"))
	}
	found, ok := document["machine"]
	if !ok {
		return nil
	}
	at = at.At("machine")
	tables, ok := tomlfile.Tables(found)
	if !ok {
		d.Errorf(at.Key, "start each machine with a line [[machine]], in two pairs of brackets",
			"machine is %s, not a list of tables", tomlfile.TypeName(found))
		return nil
	}
	var list []Machine
	first := make(map[string]int) // name to line
	for i, table := range tables {
		where := at.Elem(i)
		m := d.machine(table, where)
		if m.SSHConfig == "" && !m.Local {
			m.SSHConfig = all.SSHConfig
		}
		list = append(list, m)
		if m.Name == "" {
			continue
		}
		name := where.At("name").Value
		line, _, _ := d.Position(name)
		if earlier, ok := first[m.Name]; ok {
			d.Errorf(name, "give each machine a name of its own; the address can go into host",
				"machine %q is already on line %d", m.Name, earlier)
			continue
		}
		first[m.Name] = line
	}
	return list
}

// field reads one key of a machine. at is the position of the key and its value.
type field struct {
	key  string
	read func(d *decoder, m *Machine, v any, at *tomlfile.Place)
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
	{key: "transport", read: (*decoder).transport, ssh: true},
	{key: "ssh-config", read: (*decoder).sshConfig, ssh: true},
	{key: "proxy-jump", read: (*decoder).proxyJump, ssh: true},
	{key: "proxy-command", read: (*decoder).proxyCommand, ssh: true},
	{key: "parallel-builds", read: (*decoder).parallelBuilds},
	{key: "speed", read: (*decoder).speed},
	{key: "features", read: func(d *decoder, m *Machine, v any, at *tomlfile.Place) { m.Features = d.features("features", v, at) }},
	{key: "mandatory-features", read: func(d *decoder, m *Machine, v any, at *tomlfile.Place) {
		m.MandatoryFeatures = d.features("mandatory-features", v, at)
	}},
	{key: "overload-threshold", read: (*decoder).overloadThreshold},
	size("min-free-disk", "100MiB", func(m *Machine) *int64 { return &m.MinFreeDisk }),
	{key: "min-free-inodes", read: (*decoder).minFreeInodes},
	size("min-free-memory", "2GiB", func(m *Machine) *int64 { return &m.MinFreeMemory }),
	pressure("max-cpu-pressure", func(m *Machine) *float64 { return &m.MaxCPUPressure }),
	pressure("max-memory-pressure", func(m *Machine) *float64 { return &m.MaxMemoryPressure }),
	{key: "memory", read: (*decoder).memory},
	{key: "memory-limit", read: (*decoder).memoryLimit},
	{key: "tokens", read: (*decoder).tokens},
	{key: "parallel-transfers", read: (*decoder).parallelTransfers},
	{key: "substitute-urls", read: func(d *decoder, m *Machine, v any, at *tomlfile.Place) {
		m.SubstituteURLs = d.URLs("substitute-urls", v, at, d.example("substitute-urls", `["https://ci.guix.gnu.org"]`))
	}},
	{key: "build-cores", read: (*decoder).buildCores},
	duration("timeout", "24h", time.Second, func(m *Machine) *time.Duration { return &m.Timeout }),
	duration("max-silent-time", "1h", time.Second, func(m *Machine) *time.Duration { return &m.MaxSilentTime }),
	{key: "tags", read: func(d *decoder, m *Machine, v any, at *tomlfile.Place) { m.Tags = d.Tags("tags", v, at) }},
	duration("gc-interval", "1d", time.Minute, func(m *Machine) *time.Duration { return &m.GCInterval }),
	duration("gc-older-than", "30d", 0, func(m *Machine) *time.Duration { return &m.GCOlderThan }),
	size("gc-max-freed", "10GiB", func(m *Machine) *int64 { return &m.GCMaxFreed }),
	{key: "store", read: (*decoder).store},
	{key: "daemon-socket", read: (*decoder).daemonSocket},
	{key: "sandbox-paths", read: (*decoder).sandboxPaths},
	{key: "agent-directory", read: (*decoder).agentDirectory, ssh: true},
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
		MinFreeInodes:     DefaultMinFreeInodes,
		Transport:         TransportNative,
		Store:             StoreAuto,
		DaemonSocket:      DefaultDaemonSocket,
	}
}

func (d *decoder) machine(table map[string]any, at *tomlfile.Place) Machine {
	m := defaults()
	for _, f := range fields {
		if v, ok := table[f.key]; ok {
			f.read(d, &m, v, at.At(f.key))
		}
	}
	d.CheckKeys(table, at, keyNames)
	d.required(table, at)
	if m.Local {
		m.Host, m.Port, m.Transport = "", 0, ""
		for _, f := range fields {
			if _, ok := table[f.key]; ok && f.ssh {
				d.Errorf(at.At(f.key).Key, "leave it out, or leave local out",
					"%s has no meaning for the local machine, which is reached without SSH", f.key)
			}
		}
	} else if m.Host == "" {
		m.Host = m.Name
	}
	return m
}

func (d *decoder) required(table map[string]any, at *tomlfile.Place) {
	of := ""
	if name, ok := table["name"].(string); ok {
		of = fmt.Sprintf(" %q", name)
	}
	if _, ok := table["name"]; !ok {
		d.Errorf(at.Key, `add a line such as name = "builder1.example.org"`, "a machine without a name")
	}
	_, one := table["system"]
	_, many := table["systems"]
	switch {
	case one && many:
		second := max(at.At("system").Key, at.At("systems").Key)
		d.Errorf(second, "write them all in one list, systems", "the machine%s has both system and systems", of)
	case !one && !many:
		d.Errorf(at.Key, `add a line such as systems = ["x86_64-linux"]`, "the machine%s has no systems", of)
	}
}

func (d *decoder) name(m *Machine, v any, at *tomlfile.Place) {
	const hint = "a name has letters, digits, dots, dashes and underscores; an address of another kind goes into host"
	name, ok := d.Text("name", v, at)
	if !ok {
		return
	}
	m.Name = name
	switch user, host, hasUser := strings.Cut(name, "@"); {
	case hasUser:
		d.Errorf(at.Value, fmt.Sprintf("write name = %s and user = %s", tomlfile.Quote(host), tomlfile.Quote(user)), "the name %q has a user in it", name)
	case len(name) > 253:
		d.Errorf(at.Value, hint, "the name has more than 253 characters")
	case strings.HasPrefix(name, "-"), strings.Trim(name, ".") == "", strings.Trim(name, nameCharacters) != "":
		d.Errorf(at.Value, hint, "%q cannot be a machine's name", name)
	}
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

func (d *decoder) host(m *Machine, v any, at *tomlfile.Place) {
	d.hostNamed("host", m, v, at)
}

// hostNamed reads the host from a field with that name.
func (d *decoder) hostNamed(key string, m *Machine, v any, at *tomlfile.Place) {
	host, ok := d.Text(key, v, at)
	if !ok {
		return
	}
	if bare, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(bare, "]")
	}
	m.Host = host
	scheme, rest, hasScheme := strings.Cut(host, "://")
	name, port, hasPort := strings.Cut(host, ":")
	isIPv6 := strings.Count(host, ":") > 1
	switch {
	case hasScheme:
		d.Errorf(at.Value, "write "+d.example(key, tomlfile.Quote(rest)), "the host %q begins with %s", host, scheme+"://")
	case strings.Contains(host, "@"):
		d.Errorf(at.Value, "write the user into user", "the host %q has a user in it", host)
	case hasPort && !isIPv6 || isIPv6 && strings.Contains(host, "]:"):
		if isIPv6 {
			name, port, _ = strings.Cut(host, "]:")
		}
		d.Errorf(at.Value, fmt.Sprintf("write %s and %s", d.example(key, tomlfile.Quote(name)), d.example("port", port)), "the host %q has a port in it", host)
	case isIPv6:
		if _, err := netip.ParseAddr(host); err != nil {
			d.Errorf(at.Value, `such as "2001:db8::1", or "fe80::1%eth0" for one that counts on a network interface alone`, "%q is not an IPv6 address", host)
		}
	case strings.HasPrefix(host, "-"), len(host) > 253, strings.Trim(host, nameCharacters) != "":
		d.Errorf(at.Value, "a host name or an IP address", "%q cannot be a host", host)
	}
}

func (d *decoder) port(m *Machine, v any, at *tomlfile.Place) {
	m.Port = d.Integer("port", v, at, 1, 65535, d.example("port", "22"))
	m.PortGiven = true
}

func (d *decoder) local(m *Machine, v any, at *tomlfile.Place) {
	local, ok := v.(bool)
	if !ok {
		d.WrongType("local", v, at, "true or false", "local = true")
	}
	m.Local = local
}

func (d *decoder) systems(m *Machine, v any, at *tomlfile.Place) {
	var systems []string
	var places []*tomlfile.Place
	if one, ok := v.(string); ok {
		systems, places = []string{one}, []*tomlfile.Place{at}
	} else {
		systems, places = d.Texts("systems", v, at, d.example("systems", `["x86_64-linux"]`))
		if list, ok := v.([]any); ok && len(list) == 0 {
			d.Errorf(at.Value, d.example("systems", `["x86_64-linux"]`), "systems is empty: the machine would get no build")
		}
	}
	for i, system := range systems {
		d.system(system, places[i])
	}
	m.Systems = systems
}

func (d *decoder) system(system string, at *tomlfile.Place) {
	if slices.Contains(knownSystems, system) {
		return
	}
	near := tomlfile.Nearest(system, knownSystems)
	machine, kernel, ok := strings.Cut(system, "-")
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789_"
	wellFormed := ok && machine != "" && kernel != "" && strings.Trim(machine+kernel, letters) == ""
	// An unknown system is accepted, unless it looks like a
	// slip: a machine with a wrong system would wait in silence.
	if wellFormed && (near == "" || tomlfile.EditDistance(system, near) > 2) {
		return
	}
	hint := `a system is an architecture and a kernel, such as "x86_64-linux"`
	if near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	d.Errorf(at.Value, hint, "unknown system %q", system)
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

func (d *decoder) user(m *Machine, v any, at *tomlfile.Place) {
	user, ok := d.Text("user", v, at)
	if ok && !validUser(user) {
		d.Errorf(at.Value, d.example("user", `"offload"`), "%q cannot be the name of a user", user)
	}
	m.User = user
}

// validUser reports whether a text can be the name of an account: accounts of a domain may
// have an "@" or a backslash in it.
func validUser(user string) bool {
	return user != "" && !strings.ContainsAny(user, " \t\n:/") && !strings.HasPrefix(user, "-")
}

func (d *decoder) sshConfig(m *Machine, v any, at *tomlfile.Place) {
	file, ok := d.Text("ssh-config", v, at)
	if ok {
		d.Path("ssh-config", file, at, strings.HasPrefix(file, "~/") || file == SSHConfigNone, `ssh-config = "~/.ssh/config", or "none" to read none`)
	}
	m.SSHConfig = file
}

func (d *decoder) proxyJump(m *Machine, v any, at *tomlfile.Place) {
	text, ok := d.Text("proxy-jump", v, at)
	if !ok {
		return
	}
	m.ProxyJump = text
	if _, err := parseJumps(text); err != nil {
		d.Errorf(at.Value, `proxy-jump = "USER@HOST:PORT"; several hosts with commas, the first one to connect to first; "none" for none`, "%v", err)
	}
}

func (d *decoder) proxyCommand(m *Machine, v any, at *tomlfile.Place) {
	command, ok := d.Text("proxy-command", v, at)
	m.ProxyCommand = command
	if !ok || command == ProxyNone {
		return
	}
	const hint = `proxy-command = "nc -X connect -x proxy.example.org:3128 %h %p"`
	if _, err := expandTokens(command, (&Way{}).tokens(m.Host)); err != nil {
		d.Errorf(at.Value, hint, "proxy-command has %v", err)
	}
	if m.ProxyJump != "" && m.ProxyJump != ProxyNone {
		d.Errorf(at.Value, "leave one of them out", "the machine has both proxy-jump and proxy-command")
	}
}

func (d *decoder) privateKey(m *Machine, v any, at *tomlfile.Place) {
	file, ok := d.Text("private-key", v, at)
	if ok {
		m.PrivateKey = file
		d.Path("private-key", file, at, strings.HasPrefix(file, "~/"), d.example("private-key", `"~/.ssh/id_ed25519"`))
	}
}

func (d *decoder) hostKey(m *Machine, v any, at *tomlfile.Place) {
	text, ok := d.Text("host-key", v, at)
	if !ok {
		return
	}
	key, wrong := parseHostKey(text)
	m.HostKey = key
	if wrong == nil {
		return
	}
	offset := at.Value
	// The offset in the value is that in the file only where the string is
	// written plainly, between single quotation marks.
	if at.Value+1+len(text) <= len(d.Doc) && d.Doc[at.Value+1:at.Value+1+len(text)] == text {
		offset += 1 + wrong.offset
	}
	d.Errorf(offset, wrong.hint, "%s", wrong.message)
}

func (d *decoder) parallelBuilds(m *Machine, v any, at *tomlfile.Place) {
	m.ParallelBuilds = d.Integer("parallel-builds", v, at, 1, maxBuilds, d.example("parallel-builds", "4"))
}

func (d *decoder) speed(m *Machine, v any, at *tomlfile.Place) {
	hint := d.example("speed", "2.0") + " for a machine that is twice as fast as one of speed 1"
	speed, ok := tomlfile.Number(v)
	switch {
	case !ok:
		d.WrongType("speed", v, at, "a number", hint)
	case !(speed >= 1e-6 && speed <= 1e6): // also refuses NaN
		d.Errorf(at.Value, hint, "speed is %v; want a number from 0.000001 to 1000000", v)
	}
	m.Speed = speed
}

func (d *decoder) features(key string, v any, at *tomlfile.Place) []string {
	features, places := d.Texts(key, v, at, d.example(key, `["kvm", "big-parallel"]`))
	for i, feature := range features {
		if strings.ContainsAny(feature, ", \t\n\r") {
			d.Errorf(places[i].Value, "write each feature as a string of its own, in a list", "the feature %q is not one word", feature)
		}
	}
	return features
}

func (d *decoder) overloadThreshold(m *Machine, v any, at *tomlfile.Place) {
	hint := fmt.Sprintf("%s gives the machine no build while its load per core is 0.8 or more; %s disregards the load",
		d.example("overload-threshold", "0.8"), d.boolean(false))
	if off, ok := v.(bool); ok && !off {
		m.OverloadThreshold = 0
		return
	}
	threshold, ok := tomlfile.Number(v)
	switch {
	case !ok:
		d.WrongType("overload-threshold", v, at, "a number, or "+d.boolean(false), hint)
	case !(threshold > 0 && threshold <= 1000): // also refuses NaN
		d.Errorf(at.Value, hint, "overload-threshold is %v; want a number above 0 and up to 1000, or %s", v, d.boolean(false))
	}
	m.OverloadThreshold = threshold
}

func (d *decoder) minFreeInodes(m *Machine, v any, at *tomlfile.Place) {
	m.MinFreeInodes = int64(d.Integer("min-free-inodes", v, at, 0, math.MaxInt32, d.example("min-free-inodes", "10000")+"; 0 disregards them"))
}

func (d *decoder) parallelTransfers(m *Machine, v any, at *tomlfile.Place) {
	m.ParallelTransfers = d.Integer("parallel-transfers", v, at, 1, maxTransfers, d.example("parallel-transfers", "4"))
}

func (d *decoder) buildCores(m *Machine, v any, at *tomlfile.Place) {
	hint := d.example("build-cores", "8") + `; 0 lets the machine decide, "auto" divides its cores among the builds that run there`
	switch text, ok := v.(string); {
	case ok && text == "auto":
		m.BuildCores = BuildCoresAuto
	case ok:
		d.Errorf(at.Value, hint, `build-cores is %q; want a whole number, or "auto"`, text)
	default:
		m.BuildCores = d.Integer("build-cores", v, at, 0, maxCores, hint)
	}
}

// minMemory is the least that memory may be: whoever writes 64 means gigabytes.
const minMemory = 64 << 20

func (d *decoder) memory(m *Machine, v any, at *tomlfile.Place) {
	if m.Memory = d.amount("memory", v, at, "64GiB"); m.Memory == 0 {
		m.Memory = MemoryUnlimited
	}
}

func (d *decoder) memoryLimit(m *Machine, v any, at *tomlfile.Place) {
	m.MemoryLimit = d.amount("memory-limit", v, at, "16GiB")
}

// amount reads an amount of memory; 0 and false are none.
func (d *decoder) amount(key string, v any, at *tomlfile.Place, example string) int64 {
	hint := d.example(key, tomlfile.Quote(example)) + "; " + d.boolean(false) + " for none"
	if off, isBool := v.(bool); isBool {
		if off {
			d.WrongType(key, v, at, "a size, or "+d.boolean(false), hint)
		}
		return 0
	}
	n := d.Size(key, v, at, example)
	if n > 0 && n < minMemory {
		d.Errorf(at.Value, hint, "%s is %s; want %s or more, or %s", key, quantity.ExactBytes(n), quantity.ExactBytes(minMemory), d.boolean(false))
	}
	return n
}

// What tokens may be: names are words, as features are, and NAME=N is how a request asks for them.
const (
	maxTokenName = 64
	maxTokens    = 1_000_000 // of one name
	maxNames     = 64
)

func (d *decoder) tokens(m *Machine, v any, at *tomlfile.Place) {
	hint := d.example("tokens", "{ gpu = 2 }")
	table, ok := v.(map[string]any)
	if !ok {
		d.WrongType("tokens", v, at, "a table of whole numbers", hint)
		return
	}
	if len(table) == 0 {
		return
	}
	if len(table) > maxNames {
		d.Errorf(at.Value, hint, "tokens has %d names; at most %d are taken", len(table), maxNames)
		return
	}
	m.Tokens = make(map[string]int, len(table))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		place := at.At(name)
		if name == "" || len(name) > maxTokenName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == ',' || r == '=' }) {
			d.Errorf(place.Key, fmt.Sprintf("a token's name is one word of at most %d bytes, without commas and =", maxTokenName), "%.80q cannot be a token's name", name)
			continue
		}
		m.Tokens[name] = d.Integer("the number of "+name, table[name], place, 0, maxTokens, hint)
	}
}

// pressure reads a percentage of the kernel's pressure stall information.
func pressure(key string, of func(m *Machine) *float64) field {
	return field{key: key, read: func(d *decoder, m *Machine, v any, at *tomlfile.Place) {
		hint := fmt.Sprintf("%s gives the machine no build while that many percent of the last 10 seconds were spent waiting; %s disregards it",
			d.example(key, "80"), d.boolean(false))
		*of(m) = d.Percent(key, v, at, hint)
	}}
}

// size reads a number of bytes.
func size(key, example string, of func(m *Machine) *int64) field {
	return field{key: key, read: func(d *decoder, m *Machine, v any, at *tomlfile.Place) { *of(m) = d.Size(key, v, at, example) }}
}

// duration reads a duration, which is 0 or at least the least.
func duration(key, example string, least time.Duration, of func(m *Machine) *time.Duration) field {
	return field{key: key, read: func(d *decoder, m *Machine, v any, at *tomlfile.Place) {
		*of(m) = d.Duration(key, v, at, least, example)
	}}
}

func (d *decoder) transport(m *Machine, v any, at *tomlfile.Place) {
	m.Transport = d.oneOf("transport", "transport", v, at, TransportNative, TransportOpenSSH)
}

func (d *decoder) store(m *Machine, v any, at *tomlfile.Place) {
	m.Store = d.oneOf("store", "kind of store", v, at, StoreAuto, StoreDaemon, StoreLocal)
}

// oneOf reads one of a few words; noun says in errors what they are.
func (d *decoder) oneOf(key, noun string, v any, at *tomlfile.Place, words ...string) string {
	word, ok := d.Text(key, v, at)
	if ok && !slices.Contains(words, word) {
		hint := "one of " + tomlfile.QuoteList(words)
		if near := tomlfile.Nearest(word, words); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		d.Errorf(at.Value, hint, "unknown %s %q", noun, word)
	}
	return word
}

func (d *decoder) daemonSocket(m *Machine, v any, at *tomlfile.Place) {
	file, ok := d.Text("daemon-socket", v, at)
	if ok {
		d.Path("daemon-socket", file, at, false, d.example("daemon-socket", tomlfile.Quote(DefaultDaemonSocket)))
	}
	m.DaemonSocket = file
}

func (d *decoder) sandboxPaths(m *Machine, v any, at *tomlfile.Place) {
	const hint = `sandbox-paths = ["/bin/sh", "/inside=/outside"]`
	entries, places := d.Texts("sandbox-paths", v, at, hint)
	for i, entry := range entries {
		inside, outside, ok := strings.Cut(entry, "=")
		d.Path("sandbox-paths", inside, places[i], false, hint)
		if ok {
			d.Path("sandbox-paths", outside, places[i], false, hint)
		}
	}
	m.SandboxPaths = entries
}

func (d *decoder) agentDirectory(m *Machine, v any, at *tomlfile.Place) {
	const hint = `agent-directory = "/scratch/offload", or a folder in the home: "opt/lighter"`
	dir, ok := d.Text("agent-directory", v, at)
	switch {
	case !ok:
	case dir == "", strings.HasPrefix(dir, "~") && !strings.HasPrefix(dir, "~/"), strings.ContainsAny(dir, "\x00\r\n"):
		d.Errorf(at.Value, hint, "%q cannot be a folder", dir)
	}
	m.AgentDirectory = dir
}

func (d *decoder) stateDirectory(m *Machine, v any, at *tomlfile.Place) {
	dir, ok := d.Text("state-directory", v, at)
	if ok {
		d.Path("state-directory", dir, at, false, `state-directory = "/var/lib/lighter"`)
	}
	m.StateDirectory = dir
}
