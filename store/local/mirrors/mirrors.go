// Package mirrors reads what Guix's derivations say of where a file can be downloaded:
// addresses, lists of mirrors, and procedures that make an address of a file's hash. All of
// it is Scheme, from whoever wrote the derivation, and is read within bounds.
package mirrors

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"lighter/store"
)

// MaxSize bounds a text that is read, in bytes.
const MaxSize = maxScheme

// MaxAddress bounds an address, in bytes.
const MaxAddress = 8 << 10

// Addresses reads the value of the variable url: one address, or a list of them.
func Addresses(text string) ([]string, error) {
	v, err := readScheme(text)
	if err != nil {
		return nil, err
	}
	return schemeStrings(v)
}

// Parse reads the list of mirrors that a derivation names: an alist of names
// and addresses, ((gnu "https://ftpmirror.gnu.org/gnu/" …) …), see %mirrors in (guix
// download).
func Parse(text string) (map[string][]string, error) {
	v, err := readScheme(text)
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	if !ok {
		return nil, errors.New("it is not a list")
	}
	mirrors := make(map[string][]string, len(list))
	for _, entry := range list {
		items, ok := entry.([]any)
		if !ok || len(items) == 0 {
			return nil, errors.New("an entry is not a list")
		}
		name, ok := items[0].(symbol)
		if !ok {
			return nil, errors.New("an entry does not begin with a name")
		}
		addresses, err := schemeStrings(items[1:])
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", name, err)
		}
		mirrors[string(name)] = addresses
	}
	return mirrors, nil
}

// Expand returns the addresses that an address stands for: itself, or for
// mirror://NAME/FILE the file on each of the mirrors.
func Expand(mirrors map[string][]string, address string) []string {
	rest, ok := strings.CutPrefix(address, "mirror://")
	if !ok {
		return []string{address}
	}
	name, file, _ := strings.Cut(rest, "/")
	var all []string
	for _, base := range mirrors[name] {
		all = append(all, strings.TrimSuffix(base, "/")+"/"+file)
	}
	return all
}

// ByHash returns the addresses at which servers may have a file by its hash.
// The text is a Scheme expression whose value is a list of procedures that take the
// file's name, the algorithm and the hash (%content-addressed-mirrors in (guix
// download)). It understands the Scheme that Guix uses there: define, lambda and
// string-append, but no conditions and no other procedures. A procedure that needs more
// gives no address; skipped counts those. The algorithm is Guix's word, such as sha256.
func ByHash(text, file, algorithm string, digest []byte) (addresses []string, skipped int, err error) {
	form, err := readScheme(text)
	if err != nil {
		return nil, 0, err
	}
	e := &schemeEval{steps: maxSchemeSteps}
	v, err := e.eval(form, &schemeScope{vars: schemePrimitives()})
	if err != nil {
		return nil, 0, err
	}
	list, ok := v.([]any)
	if !ok {
		return nil, 0, errors.New("its value is not a list")
	}
	for _, item := range list {
		v, err := e.call(item, []any{file, symbol(algorithm), digest})
		if address, ok := v.(string); ok && err == nil {
			addresses = append(addresses, address)
		} else {
			skipped++
		}
	}
	return addresses, skipped, nil
}

// maxSchemeSteps bounds an evaluation.
const maxSchemeSteps = 10_000

type (
	schemeScope struct {
		vars  map[symbol]any
		outer *schemeScope
	}
	schemeLambda struct {
		params []any
		body   []any
		scope  *schemeScope
	}
	schemePrimitive func(args []any) (any, error)
)

// schemeEval evaluates the subset of Scheme that ByHash describes.
type schemeEval struct{ steps int }

func (e *schemeEval) eval(form any, scope *schemeScope) (any, error) {
	if e.steps--; e.steps < 0 {
		return nil, errors.New("it takes too long")
	}
	switch form := form.(type) {
	case symbol:
		for s := scope; s != nil; s = s.outer {
			if v, ok := s.vars[form]; ok {
				return v, nil
			}
		}
		return nil, fmt.Errorf("%s is unknown", form)
	case []any:
		return e.list(form, scope)
	}
	return form, nil
}

func (e *schemeEval) list(form []any, scope *schemeScope) (any, error) {
	if len(form) == 0 {
		return nil, errors.New("() is not an expression")
	}
	switch head, _ := form[0].(symbol); {
	case head == "quote" && len(form) == 2:
		return form[1], nil
	case head == "begin":
		return e.body(form[1:], scope)
	case head == "use-modules", head == "module-autoload!":
		return nil, nil //nolint:nilnil // it has no value
	case head == "lambda" && len(form) > 2:
		params, ok := form[1].([]any)
		if !ok {
			return nil, errors.New("a lambda has no list of parameters")
		}
		return &schemeLambda{params: params, body: form[2:], scope: scope}, nil
	case head == "define" && len(form) > 2:
		return nil, e.define(form, scope)
	}
	values := make([]any, len(form))
	for i, f := range form {
		var err error
		if values[i], err = e.eval(f, scope); err != nil {
			return nil, err
		}
	}
	return e.call(values[0], values[1:])
}

func (e *schemeEval) define(form []any, scope *schemeScope) error {
	switch target := form[1].(type) {
	case symbol:
		v, err := e.eval(form[2], scope)
		scope.vars[target] = v
		return err
	case []any:
		if len(target) > 0 {
			if name, ok := target[0].(symbol); ok {
				scope.vars[name] = &schemeLambda{params: target[1:], body: form[2:], scope: scope}
				return nil
			}
		}
	}
	return errors.New("a define has no name")
}

func (e *schemeEval) body(forms []any, scope *schemeScope) (v any, err error) {
	for _, f := range forms {
		if v, err = e.eval(f, scope); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (e *schemeEval) call(f any, args []any) (any, error) {
	switch f := f.(type) {
	case schemePrimitive:
		return f(args)
	case *schemeLambda:
		if len(f.params) != len(args) {
			return nil, fmt.Errorf("%d arguments for %d parameters", len(args), len(f.params))
		}
		scope := &schemeScope{vars: make(map[symbol]any, len(args)), outer: f.scope}
		for i, p := range f.params {
			name, ok := p.(symbol)
			if !ok {
				return nil, errors.New("a parameter is not a name")
			}
			scope.vars[name] = args[i]
		}
		return e.body(f.body, scope)
	}
	return nil, errors.New("it is not a procedure")
}

func schemePrimitives() map[symbol]any {
	bytes := func(format func([]byte) string) schemePrimitive {
		return func(args []any) (any, error) {
			if len(args) == 1 {
				if b, ok := args[0].([]byte); ok {
					return format(b), nil
				}
			}
			return nil, errors.New("it is not a bytevector")
		}
	}
	return map[symbol]any{
		"list":                          schemePrimitive(func(args []any) (any, error) { return args, nil }),
		"bytevector->nix-base32-string": bytes(store.EncodeBase32),
		"bytevector->base16-string":     bytes(hex.EncodeToString),
		"symbol->string": schemePrimitive(func(args []any) (any, error) {
			if len(args) == 1 {
				if s, ok := args[0].(symbol); ok {
					return string(s), nil
				}
			}
			return nil, errors.New("it is not a symbol")
		}),
		"string-append": schemePrimitive(func(args []any) (any, error) {
			parts, err := schemeStrings(args)
			s := strings.Join(parts, "")
			if len(s) > MaxAddress {
				return nil, fmt.Errorf("a string has more than %d bytes", MaxAddress)
			}
			return s, err
		}),
	}
}
