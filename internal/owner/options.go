package owner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/internal/quantity"
	"lighter/internal/tomlfile"
)

// Options are the options of an agent, and what they are set to.
type Options struct {
	Settings
	All []*Option // in the order of the documentation
}

// Option is one thing that an owner can set, by a key of the file and by a flag. It can be
// the value of a flag in package pflag: what Set got counts when Load is called.
type Option struct {
	Key, Flag string
	What      string // for the help of the flag; what it takes is in backquotes
	// OfHeads says that it is about what heads may ask for, not about the agent itself.
	OfHeads bool

	kind  string // for the help
	value value
	given []string // by the flag
}

// value is a field of Settings.
type value interface {
	// decode reads it from a file.
	decode(d *tomlfile.Decoder, key string, v any, at *tomlfile.Place)
	// set reads it from the texts that a flag was given, the last one of which counts
	// unless it is a list.
	set(texts []string) error
	// texts is what set would have to be given.
	texts() []string
}

func (o *Option) ofHeads() *Option {
	o.OfHeads = true
	return o
}

// Set notes what a flag was given.
func (o *Option) Set(text string) error {
	given := append(slices.Clone(o.given), text)
	if err := o.value.set(given); err != nil {
		return err
	}
	o.given = given
	return nil
}

// String is the value as the help shows it.
func (o *Option) String() string { return strings.Join(o.value.texts(), " ") }

// Type is what pflag calls the kind of value; of a "bool" the flag needs no value.
func (o *Option) Type() string { return o.kind }

// Load reads the file, and then what flags were given. A file that is not there is an error
// only if it must be. What is wrong in a file comes as tomlfile.Errors.
func (o *Options) Load(file string, must bool) error {
	data, err := read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !must:
	case err != nil:
		return fmt.Errorf("settings of the machine's owner: %w", err)
	default:
		if err := o.parse(file, data); err != nil {
			return err
		}
	}
	for _, option := range o.All {
		if len(option.given) > 0 {
			if err := option.value.set(option.given); err != nil {
				return fmt.Errorf("--%s: %w", option.Flag, err)
			}
		}
	}
	return nil
}

func (o *Options) parse(file string, data []byte) error {
	d := tomlfile.NewDecoder(file, data)
	document, root, ok := d.Parse()
	if !ok {
		return d.Err()
	}
	var keys []string
	for _, option := range o.All {
		keys = append(keys, option.Key)
		if v, ok := document[option.Key]; ok {
			option.value.decode(&d, option.Key, v, root.At(option.Key))
		}
	}
	d.CheckKeys(document, root, keys)
	return d.Err()
}

// Args are the flags with which another process has the same settings of the agent itself,
// without a file.
func (o *Options) Args() []string {
	var args []string
	for _, option := range o.All {
		if option.OfHeads {
			continue
		}
		for _, text := range option.value.texts() {
			args = append(args, "--"+option.Flag+"="+text)
		}
	}
	return args
}

func file(key, flag, what string, to *string) *Option {
	return &Option{Key: key, Flag: flag, What: what, kind: "string", value: (*fileValue)(to)}
}

// fileValue is the name of a file. On the command line it may be relative.
type fileValue string

func (v *fileValue) decode(d *tomlfile.Decoder, key string, x any, at *tomlfile.Place) {
	name, ok := d.Text(key, x, at)
	if !ok {
		return
	}
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			name = filepath.Join(home, rest)
		}
	}
	d.Path(key, name, at, false, d.Example(key, `"/srv/lighter"`))
	*v = fileValue(name)
}

func (v *fileValue) set(texts []string) error {
	*v = fileValue(texts[len(texts)-1])
	return nil
}

func (v *fileValue) texts() []string { return oneText(string(*v)) }

func oneText(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

func choice(key, what string, to *string, words ...string) *Option {
	return &Option{Key: key, Flag: key, What: what, kind: "string", value: &choiceValue{to, words}}
}

type choiceValue struct {
	to    *string
	words []string
}

func (v *choiceValue) decode(d *tomlfile.Decoder, key string, x any, at *tomlfile.Place) {
	*v.to = d.Choice(key, x, at, v.words)
}

func (v *choiceValue) set(texts []string) error {
	text := texts[len(texts)-1]
	if !slices.Contains(v.words, text) {
		return fmt.Errorf("%q: want %s", text, strings.Join(v.words, ", "))
	}
	*v.to = text
	return nil
}

func (v *choiceValue) texts() []string { return oneText(*v.to) }

// list is an option with any number of texts, each of which check accepts.
func list(key, flag, what string, to *[]string, check func(string) error) *Option {
	return &Option{Key: key, Flag: flag, What: what, kind: "string", value: &listValue{to, check}}
}

type listValue struct {
	to    *[]string
	check func(string) error
}

func (v *listValue) decode(d *tomlfile.Decoder, key string, x any, at *tomlfile.Place) {
	texts, places := d.Texts(key, x, at, d.Example(key, `["…", "…"]`))
	for i, text := range texts {
		if err := v.check(text); err != nil {
			d.Errorf(places[i].Value, "", "%s: %v", key, err)
		}
	}
	*v.to = texts
}

func (v *listValue) set(texts []string) error {
	for _, text := range texts {
		if err := v.check(text); err != nil {
			return err
		}
	}
	*v.to = texts
	return nil
}

func (v *listValue) texts() []string { return *v.to }

// variables is a list of names of variables. One without any is the list of an empty name,
// so that it is told from one that was not given.
func variables(key, flag, what string, to *[]string) *Option {
	o := list(key, flag, what, to, checkVariable)
	o.value = &variablesValue{listValue{to, checkVariable}}
	return o
}

type variablesValue struct{ listValue }

func (v *variablesValue) decode(d *tomlfile.Decoder, key string, x any, at *tomlfile.Place) {
	v.listValue.decode(d, key, x, at)
	if len(*v.to) == 0 {
		*v.to = []string{""}
	}
}

func checkVariable(name string) error {
	if strings.ContainsAny(name, "= \t\n\x00") {
		return fmt.Errorf("%q is not the name of a variable", name)
	}
	return nil
}

func checkURL(text string) error { return tomlfile.CheckURL(text) }

func boolean(key, what string, to *bool) *Option {
	return &Option{Key: key, Flag: key, What: what, kind: "bool", value: (*boolValue)(to)}
}

type boolValue bool

func (v *boolValue) decode(d *tomlfile.Decoder, key string, x any, at *tomlfile.Place) {
	*v = boolValue(d.Boolean(key, x, at))
}

func (v *boolValue) set(texts []string) error {
	b, err := strconv.ParseBool(texts[len(texts)-1])
	if err != nil {
		return fmt.Errorf("%q: want true or false", texts[len(texts)-1])
	}
	*v = boolValue(b)
	return nil
}

func (v *boolValue) texts() []string { return []string{strconv.FormatBool(bool(*v))} }

// number is an option with a whole number from 0.
func number(key, what string, to *int, most int) *Option {
	return &Option{Key: key, Flag: key, What: what, kind: "int", value: &numberValue{to, most}}
}

type numberValue struct {
	to   *int
	most int
}

func (v *numberValue) decode(d *tomlfile.Decoder, key string, x any, at *tomlfile.Place) {
	*v.to = d.Integer(key, x, at, 0, v.most, d.Example(key, "4"))
}

func (v *numberValue) set(texts []string) error {
	n, err := strconv.Atoi(texts[len(texts)-1])
	if err != nil || n < 0 || n > v.most {
		return fmt.Errorf("%q: want a number from 0 to %d", texts[len(texts)-1], v.most)
	}
	*v.to = n
	return nil
}

func (v *numberValue) texts() []string { return []string{strconv.Itoa(*v.to)} }

func duration(key, what string, to *time.Duration) *Option {
	return &Option{Key: key, Flag: key, What: what, kind: "duration", value: (*durationValue)(to)}
}

type durationValue time.Duration

func (v *durationValue) decode(d *tomlfile.Decoder, key string, x any, at *tomlfile.Place) {
	*v = durationValue(d.Duration(key, x, at, time.Second, "6h"))
}

func (v *durationValue) set(texts []string) error {
	length, err := quantity.ParseDuration(texts[len(texts)-1])
	if err != nil {
		return fmt.Errorf("%q: %w", texts[len(texts)-1], err)
	}
	*v = durationValue(length)
	return nil
}

func (v *durationValue) texts() []string {
	if *v == 0 {
		return nil
	}
	return []string{quantity.ExactDuration(time.Duration(*v))}
}

// size is an option with a number of bytes.
func size(key, what, example string, to *int64) *Option {
	return &Option{Key: key, Flag: key, What: what, kind: "size", value: &sizeValue{to, example}}
}

type sizeValue struct {
	to      *int64
	example string
}

func (v *sizeValue) decode(d *tomlfile.Decoder, key string, x any, at *tomlfile.Place) {
	*v.to = d.Size(key, x, at, v.example)
}

func (v *sizeValue) set(texts []string) error {
	n, err := quantity.ParseBytes(texts[len(texts)-1])
	if err != nil {
		return fmt.Errorf("%q: %w", texts[len(texts)-1], err)
	}
	*v.to = n
	return nil
}

func (v *sizeValue) texts() []string { return []string{strconv.FormatInt(*v.to, 10)} }
