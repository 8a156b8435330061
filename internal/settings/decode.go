package settings

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"lighter/internal/quantity"
	"lighter/internal/tomlfile"
)

// The greatest values of some keys: beyond any need, so that a digit too many is
// noticed.
const (
	maxAttempts  = 1000
	maxTransfers = 1000
	maxParallel  = 1000
	minMaxLog    = 4 << 10 // bytes
	maxName      = 100     // bytes
	maxPriority  = 1_000_000
	maxWeights   = 1000
	maxShare     = 255 // bytes
)

// The kinds of stores, as package machines has them.
const (
	storeLocal  = "local"
	storeDaemon = "guix-daemon"
)

// Parse reads and checks the contents of a settings file, as Load does. The name of the
// file is for errors alone; home is what "~/" stands for.
func Parse(file string, data []byte, home string) (*Settings, error) {
	d := &decoder{Decoder: tomlfile.NewDecoder(file, data), home: home}
	document, root, ok := d.Parse()
	if !ok {
		return nil, d.Err()
	}
	s := Default()
	d.document(s, document, root)
	if err := d.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

type decoder struct {
	tomlfile.Decoder
	home string
}

// section is a table of the file.
type section struct {
	name   string
	fields []field
}

// field reads one key of a table.
type field struct {
	key  string
	read func(d *decoder, v any, at *tomlfile.Place)
}

// sections in the order of the documentation. Their fields write to s.
func sections(s *Settings) []section {
	c, a, h, l := &s.Coordinator, &s.Access, &s.Head, &s.Ledger
	return []section{
		{"coordinator", []field{
			duration("machine-lost-after", "5m", &c.MachineLostAfter, time.Second),
			integer("max-attempts", "10", &c.MaxAttempts, 1, maxAttempts),
			integer("retries", "0", &c.Retries, 0, maxAttempts),
			integer("download-retries", "3", &c.DownloadRetries, 0, maxAttempts),
			integer("quarantine-after", "3; 0 means never", &c.QuarantineAfter, 0, maxAttempts),
			positive("quarantine-time", "1h", &c.QuarantineTime, time.Second),
			integer("parallel-transfers", "4", &c.ParallelTransfers, 1, maxTransfers),
			boolean("build-missing-inputs", &c.BuildMissingInputs),
			boolean("run-again", &c.RunAgain),
			duration("idle-alarm", "1m", &c.IdleAlarm, time.Second),
			{"max-log", func(d *decoder, v any, at *tomlfile.Place) { d.maxLog(c, v, at) }},
			{"derivation-substitute-urls", func(d *decoder, v any, at *tomlfile.Place) {
				c.DerivationSubstituteURLs = d.URLs("derivation-substitute-urls", v, at, d.Example("derivation-substitute-urls", `["https://bordeaux.guix.gnu.org"]`))
			}},
			duration("timeout", "24h", &c.Timeout, time.Second),
			duration("max-silent-time", "1h", &c.MaxSilentTime, time.Second),
		}},
		{"access", []field{
			{"submit-group", func(d *decoder, v any, at *tomlfile.Place) {
				a.SubmitGroup = d.account("submit-group", v, at)
			}},
			{"operate-group", func(d *decoder, v any, at *tomlfile.Place) {
				a.OperateGroup = d.account("operate-group", v, at)
			}},
			{"operate-users", func(d *decoder, v any, at *tomlfile.Place) { a.OperateUsers = d.accounts("operate-users", v, at) }},
			integer("max-priority", "100", &a.MaxPriority, -maxPriority, maxPriority),
		}},
		{"shares", []field{
			{"by", func(d *decoder, v any, at *tomlfile.Place) {
				s.Shares.By = d.Choice("by", v, at, []string{SharesByUser, SharesByTag, SharesBySource, SharesByNone})
			}},
			duration("half-life", "30m", &s.Shares.HalfLife, time.Minute),
			{"weights", func(d *decoder, v any, at *tomlfile.Place) { s.Shares.Weights = d.weights(v, at) }},
		}},
		{"head", []field{
			{"store", func(d *decoder, v any, at *tomlfile.Place) {
				h.Store = d.Choice("store", v, at, []string{storeLocal, storeDaemon})
			}},
			size("min-free-disk", "1GiB", &h.MinFreeDisk),
			size("min-free-state-disk", "256MiB", &h.MinFreeStateDisk),
			{"min-free-inodes", func(d *decoder, v any, at *tomlfile.Place) {
				h.MinFreeInodes = int64(d.Integer("min-free-inodes", v, at, 0, math.MaxInt32, d.Example("min-free-inodes", "10000")))
			}},
		}},
		{"ledger", []field{
			duration("prune-after", "90d", &l.PruneAfter, time.Minute),
			boolean("keep-logs", &l.KeepLogs),
			{"sync-delay", func(d *decoder, v any, at *tomlfile.Place) { d.syncDelay(l, v, at) }},
		}},
		{"log", []field{
			{"level", func(d *decoder, v any, at *tomlfile.Place) { d.level(&s.Log, v, at) }},
			{"format", func(d *decoder, v any, at *tomlfile.Place) {
				s.Log.Format = d.Choice("format", v, at, []string{FormatText, FormatJSON})
			}},
		}},
		{"publish", []field{
			{"folder", func(d *decoder, v any, at *tomlfile.Place) {
				s.Publish.Folder = d.file("folder", v, at, "/srv/lighter")
			}},
			{"key", func(d *decoder, v any, at *tomlfile.Place) {
				s.Publish.Key = d.file("key", v, at, "/etc/lighter/publish.sec")
			}},
			{"compression", func(d *decoder, v any, at *tomlfile.Place) {
				s.Publish.Compression = d.Choice("compression", v, at, []string{CompressZstd, CompressGzip, CompressNone})
			}},
			{"level", func(d *decoder, v any, at *tomlfile.Place) { d.compressionLevel(&s.Publish, v, at) }},
		}},
		{"web", []field{
			{"url", func(d *decoder, v any, at *tomlfile.Place) { d.webURL(&s.Web, v, at) }},
		}},
	}
}

// duration reads a duration, which is 0 or at least the least.
func duration(key, example string, to *time.Duration, least time.Duration) field {
	return field{key, func(d *decoder, v any, at *tomlfile.Place) { *to = d.Duration(key, v, at, least, example) }}
}

// positive reads a duration that is not 0 either.
func positive(key, example string, to *time.Duration, least time.Duration) field {
	return field{key, func(d *decoder, v any, at *tomlfile.Place) { *to = d.positive(key, v, at, least, example) }}
}

func (d *decoder) positive(key string, v any, at *tomlfile.Place, least time.Duration, example string) time.Duration {
	before := len(d.Errs)
	length := d.Duration(key, v, at, least, example)
	if length == 0 && len(d.Errs) == before {
		d.Errorf(at.Value, d.Example(key, tomlfile.Quote(example)), "%s is 0; want %s or more", key, quantity.ExactDuration(least))
	}
	return length
}

func integer(key, example string, to *int, least, most int) field {
	return field{key, func(d *decoder, v any, at *tomlfile.Place) {
		*to = d.Integer(key, v, at, least, most, d.Example(key, example))
	}}
}

func boolean(key string, to *bool) field {
	return field{key, func(d *decoder, v any, at *tomlfile.Place) { *to = d.Boolean(key, v, at) }}
}

func size(key, example string, to *int64) field {
	return field{key, func(d *decoder, v any, at *tomlfile.Place) { *to = d.Size(key, v, at, example) }}
}

// account reads the name or number of a user or group. Which there are is not known here.
func (d *decoder) account(key string, v any, at *tomlfile.Place) string {
	name, ok := d.Text(key, v, at)
	if ok {
		d.checkAccount(name, at)
	}
	return name
}

func (d *decoder) accounts(key string, v any, at *tomlfile.Place) []string {
	names, places := d.Texts(key, v, at, d.Example(key, `["alice"]`))
	for i, name := range names {
		d.checkAccount(name, places[i])
	}
	return names
}

// checkAccount refuses what no user or group can be called, so that a list in one text is
// not taken for a name.
func (d *decoder) checkAccount(name string, at *tomlfile.Place) {
	if strings.ContainsAny(name, ":,/ \t") || len(name) > maxName {
		d.Errorf(at.Value, "want one name, or its number", "%q cannot be the name of a user or group", name)
	}
}

// weights reads how much each share may use. Whether there is anybody of a name is not known here.
func (d *decoder) weights(v any, at *tomlfile.Place) map[string]float64 {
	hint := d.Example("weights", `{ alice = 3, "*" = 1 }`)
	table, ok := v.(map[string]any)
	if !ok {
		d.WrongType("weights", v, at, "a table of numbers", hint)
		return nil
	}
	if len(table) > maxWeights {
		d.Errorf(at.Key, `give many the same weight with "*"`, "weights has %d names; at most %d are taken", len(table), maxWeights)
		return nil
	}
	weights := make(map[string]float64, len(table))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		weight, ok := tomlfile.Number(table[name])
		switch place := at.At(name); {
		case strings.TrimSpace(name) == "" || len(name) > maxShare || strings.ContainsFunc(name, unicode.IsControl):
			d.Errorf(place.Key, `a share has the name of a user, "tag:NAME" or "queue:BRANCH"; "*" is all others`, "%.40q cannot be a share's name", name)
		case !ok:
			d.Errorf(place.Value, hint, "the weight of %q is %s; want a number", name, d.KindOf(table[name]))
		case !(weight >= 1e-6 && weight <= 1e6):
			d.Errorf(place.Value, hint, "the weight of %q is %v; want a number from 0.000001 to 1000000", name, table[name])
		}
		weights[name] = weight
	}
	return weights
}

func (d *decoder) maxLog(c *Coordinator, v any, at *tomlfile.Place) {
	before := len(d.Errs)
	c.MaxLog = d.Size("max-log", v, at, "256MiB")
	if c.MaxLog < minMaxLog && len(d.Errs) == before {
		d.Errorf(at.Value, d.Example("max-log", `"256MiB"`), "max-log is %d bytes; want %s or more", c.MaxLog, quantity.ExactBytes(minMaxLog))
	}
}

func (d *decoder) syncDelay(l *Ledger, v any, at *tomlfile.Place) {
	const most = 10 * time.Second
	if l.SyncDelay = d.positive("sync-delay", v, at, time.Millisecond, "200ms"); l.SyncDelay > most {
		d.Errorf(at.Value, d.Example("sync-delay", `"200ms"`), "sync-delay is %s; want %s or less",
			quantity.ExactDuration(l.SyncDelay), quantity.ExactDuration(most))
	}
}

// levels are the words for how much is logged.
var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

func (d *decoder) level(l *Log, v any, at *tomlfile.Place) {
	l.Level = levels[d.Choice("level", v, at, []string{"debug", "info", "warn", "error"})]
}

func (d *decoder) compressionLevel(p *Publish, v any, at *tomlfile.Place) {
	p.Level = d.Integer("level", v, at, 0, maxLevels[CompressZstd], d.Example("level", "3"))
}

// maxLevels has the greatest level of each compression.
var maxLevels = map[string]int{CompressZstd: 22, CompressGzip: 9, CompressNone: 0}

// file reads the name of a file or folder.
func (d *decoder) file(key string, v any, at *tomlfile.Place, example string) string {
	name, ok := d.Text(key, v, at)
	if !ok {
		return ""
	}
	name = atHome(name, d.home)
	d.Path(key, name, at, false, d.Example(key, tomlfile.Quote(example)))
	return name
}

// webURL reads the address of the page.
func (d *decoder) webURL(w *Web, v any, at *tomlfile.Place) {
	text, ok := d.Text("url", v, at)
	if !ok {
		return
	}
	w.URL = strings.TrimSuffix(text, "/")
	if err := CheckWebURL(w.URL); err != nil {
		d.Errorf(at.Value, d.Example("url", `"https://lighter.example.org"`), "url: %v", err)
	}
}

// atHome replaces a "~/" at the start of a name. Without a home folder it stays, and is
// an error then.
func atHome(name, home string) string {
	if rest, ok := strings.CutPrefix(name, "~/"); ok && home != "" {
		return filepath.Join(home, rest)
	}
	return name
}

func (d *decoder) document(s *Settings, document map[string]any, at *tomlfile.Place) {
	all := sections(s)
	for _, sec := range all {
		if v, ok := document[sec.name]; ok {
			d.section(all, sec, v, at.At(sec.name))
		}
	}
	if v, ok := document["hook"]; ok {
		s.Hooks = d.hooks(v, at.At("hook"))
	}
	names := []string{"hook"}
	for _, sec := range all {
		names = append(names, sec.name)
	}
	for key, v := range document {
		if slices.Contains(names, key) {
			continue
		}
		hint := "the tables are " + strings.Join(names, ", ")
		if owner := ownerOf(all, key); owner != "" && !isTable(v) {
			d.Errorf(at.At(key).Key, "it belongs below a line ["+owner+"]", "unknown key %q", key)
			continue
		}
		d.UnknownKey(key, at.At(key).Key, names, hint)
	}
	d.checkLevel(s, document, at)
}

func isTable(v any) bool {
	_, ok := v.(map[string]any)
	return ok
}

// checkLevel compares compression and level, of which either may be a default.
func (d *decoder) checkLevel(s *Settings, document map[string]any, at *tomlfile.Place) {
	table, _ := document["publish"].(map[string]any)
	most, known := maxLevels[s.Publish.Compression]
	if _, ok := table["level"]; !ok || !known || s.Publish.Level <= most {
		return
	}
	place := at.At("publish").At("level")
	if most == 0 {
		d.Errorf(place.Value, "leave it out", "level has no meaning without compression")
		return
	}
	d.Errorf(place.Value, d.Example("level", "6"), "level is %d; %s has levels from 1 to %d", s.Publish.Level, s.Publish.Compression, most)
}

// ownerOf returns the table that has a key, if just one has.
func ownerOf(all []section, key string) string {
	owner := ""
	for _, sec := range all {
		if slices.ContainsFunc(sec.fields, func(f field) bool { return f.key == key }) {
			if owner != "" {
				return ""
			}
			owner = sec.name
		}
	}
	return owner
}

func (d *decoder) section(all []section, sec section, v any, at *tomlfile.Place) {
	table, ok := v.(map[string]any)
	if !ok {
		d.Errorf(at.Key, "write its keys below a line ["+sec.name+"]", "%s is %s; want a table", sec.name, d.KindOf(v))
		return
	}
	d.fields(table, at, sec.fields, func(key string) string {
		if owner := ownerOf(all, key); owner != "" {
			return "it belongs below a line [" + owner + "]"
		}
		return ""
	})
}

// fields reads a table's keys. The hint for an unknown key may be empty, which leaves it to
// the nearest known one.
func (d *decoder) fields(table map[string]any, at *tomlfile.Place, fields []field, hint func(key string) string) {
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.key
		if v, ok := table[f.key]; ok {
			f.read(d, v, at.At(f.key))
		}
	}
	for key := range table {
		if slices.Contains(known, key) {
			continue
		}
		if h := hint(key); h != "" {
			d.Errorf(at.At(key).Key, h, "unknown key %q", key)
			continue
		}
		d.UnknownKey(key, at.At(key).Key, known, "the keys are "+strings.Join(known, ", "))
	}
}

func (d *decoder) hooks(v any, at *tomlfile.Place) []Hook {
	tables, ok := tomlfile.Tables(v)
	if !ok {
		d.Errorf(at.Key, "start each hook with a line [[hook]], in two pairs of brackets", "hook is %s; want a list of tables", d.KindOf(v))
		return nil
	}
	var hooks []Hook
	first := make(map[string]int) // name to line
	for i, table := range tables {
		place := at.Elem(i)
		h := d.hook(table, place)
		hooks = append(hooks, h)
		if h.Name == "" {
			continue
		}
		name := place.At("name").Value
		line, _, _ := d.Position(name)
		if earlier, ok := first[h.Name]; ok {
			d.Errorf(name, "give each hook a name of its own", "hook %q is already on line %d", h.Name, earlier)
			continue
		}
		first[h.Name] = line
	}
	return hooks
}

func (d *decoder) hook(table map[string]any, at *tomlfile.Place) Hook {
	h := Hook{Timeout: 5 * time.Minute, Tries: 8}
	h.places = &places{file: d.File, doc: d.Doc, hook: at, options: at.At("options")}
	d.fields(table, at, []field{
		{"name", func(d *decoder, v any, at *tomlfile.Place) { h.Name = d.hookName(v, at) }},
		{"events", func(d *decoder, v any, at *tomlfile.Place) { h.Events = d.events(v, at) }},
		{"command", func(d *decoder, v any, at *tomlfile.Place) { h.Command = d.command(v, at) }},
		{"built-in", func(d *decoder, v any, at *tomlfile.Place) { h.BuiltIn = d.Choice("built-in", v, at, builtInNames) }},
		positive("timeout", "5m", &h.Timeout, time.Second),
		integer("parallel", "1", &h.Parallel, 1, maxParallel),
		integer("tries", "8", &h.Tries, 1, maxAttempts),
		{"tags", func(d *decoder, v any, at *tomlfile.Place) { h.Tags = d.AnyTags("tags", v, at) }},
		{"options", func(d *decoder, v any, at *tomlfile.Place) { h.Options = d.options(v, at) }},
	}, func(string) string { return "" })
	d.requiredOfHook(table, at)
	return h
}

// requiredOfHook reports what a hook lacks, and what it has too much of.
func (d *decoder) requiredOfHook(table map[string]any, at *tomlfile.Place) {
	of := ""
	if name, ok := table["name"].(string); ok {
		of = fmt.Sprintf(" %q", name)
	}
	has := func(key string) bool { _, ok := table[key]; return ok }
	if !has("name") {
		d.Errorf(at.Key, d.Example("name", `"notify"`), "a hook without a name")
	}
	if !has("events") {
		d.Errorf(at.Key, d.Example("events", `["build-failed"]`), "the hook%s has no events", of)
	}
	switch {
	case has("command") && has("built-in"):
		second := max(at.At("command").Key, at.At("built-in").Key)
		d.Errorf(second, "leave one of them out", "the hook%s has both command and built-in", of)
	case !has("command") && !has("built-in"):
		d.Errorf(at.Key, `add a line such as command = ["/usr/local/bin/notify"], or built-in = "publish"`, "the hook%s has nothing to run", of)
	}
	if has("options") && !has("built-in") {
		d.Errorf(at.At("options").Key, "write the arguments into command", "options are for built-in hooks only")
	}
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

func (d *decoder) hookName(v any, at *tomlfile.Place) string {
	name, ok := d.Text("name", v, at)
	switch {
	case !ok:
	case len(name) > maxName:
		d.Errorf(at.Value, "", "the name has more than %d characters", maxName)
	case strings.HasPrefix(name, "."), strings.HasPrefix(name, "-"), strings.Trim(name, nameCharacters) != "":
		d.Errorf(at.Value, "a name has letters, digits, dots, dashes and underscores, the first one a letter or digit", "%q cannot be a hook's name", name)
	}
	return name
}

func (d *decoder) events(v any, at *tomlfile.Place) []string {
	hint := d.Example("events", `["build-failed", "build-timed-out"]`)
	events, places := d.Texts("events", v, at, hint)
	for i, event := range events {
		if !slices.Contains(eventNames, event) {
			d.Errorf(places[i].Value, tomlfile.NearestHint(event, eventNames, "the events are "+strings.Join(eventNames, ", ")), "unknown event %q", event)
		}
	}
	if list, ok := v.([]any); ok && len(list) == 0 {
		d.Errorf(at.Value, hint, "events is empty: the hook would never run")
	}
	return events
}

// command reads a program with its arguments, or a line for the shell.
func (d *decoder) command(v any, at *tomlfile.Place) []string {
	if line, ok := v.(string); ok {
		if strings.TrimSpace(line) == "" || strings.ContainsRune(line, 0) {
			d.Errorf(at.Value, d.Example("command", `"systemd-cat -t lighter echo $LIGHTER_EVENT"`), "command is empty, or has a NUL in it")
			return nil
		}
		return []string{"/bin/sh", "-c", line}
	}
	hint := d.Example("command", `["/usr/local/bin/notify", "--to", "alice"]`)
	words := d.Words("command", v, at, hint)
	list, ok := v.([]any)
	switch {
	case !ok:
	case len(list) == 0:
		d.Errorf(at.Value, hint, "command is empty")
	case len(words) == len(list) && words[0] == "":
		d.Errorf(at.Elem(0).Value, hint, "the program has no name")
	case len(words) == len(list) && strings.ContainsRune(words[0], '/'):
		words[0] = atHome(words[0], d.home)
		d.Path("command", words[0], at.Elem(0), false, hint)
	}
	return words
}

// options reads those of a built-in hook, whose meaning is not known here.
func (d *decoder) options(v any, at *tomlfile.Place) map[string]any {
	table, ok := v.(map[string]any)
	if !ok {
		d.WrongType("options", v, at, "a table", d.Example("options", `{ … }`))
		return nil
	}
	options := make(map[string]any, len(table))
	for key, value := range table {
		place := at.At(key)
		switch x := value.(type) {
		case string, int64, float64, bool:
			options[key] = x
		case []any:
			options[key] = d.Words(key, x, place, d.Example(key, `["…", "…"]`))
		default:
			d.WrongType(key, value, place, "a string, a number, true, false, or a list of strings", "")
		}
	}
	return options
}
