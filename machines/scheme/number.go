package scheme

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// maxBits bounds the numerator and the denominator of an exact number.
const maxBits = 4096

func exact(n int64) *big.Rat { return big.NewRat(n, 1) }

// parseNumber reads a real number as Guile writes it: "2", "-3/4", "2.", ".5",
// "1e3", "#x16", "#e1.5", "+inf.0". isComplex reports a complex number, for which v is
// nil, as it is for what is no number at all.
func parseNumber(text string, radix int) (v Value, isComplex bool) {
	exactness := byte(0)
	for len(text) >= 2 && text[0] == '#' {
		switch c := text[1] | 0x20; c {
		case 'x':
			radix = 16
		case 'd':
			radix = 10
		case 'o':
			radix = 8
		case 'b':
			radix = 2
		case 'e', 'i':
			exactness = c
		default:
			return nil, false
		}
		text = text[2:]
	}
	v = parseReal(text, radix)
	if v == nil {
		return nil, complexNumber(text, radix)
	}
	switch x := v.(type) {
	case float64:
		if exactness == 'e' {
			if v = parseDecimalExactly(text); v == nil {
				return nil, false
			}
		}
	case *big.Rat:
		if exactness == 'i' {
			v, _ = x.Float64()
		}
	}
	return v, false
}

func parseReal(text string, radix int) Value {
	sign, digits := "", text
	if text != "" && (text[0] == '+' || text[0] == '-') {
		sign, digits = text[:1], text[1:]
	}
	if sign != "" {
		switch strings.ToLower(digits) {
		case "inf.0":
			return math.Inf(map[string]int{"+": 1, "-": -1}[sign])
		case "nan.0":
			return math.NaN()
		}
	}
	numerator, denominator, isFraction := strings.Cut(digits, "/")
	if n := parseNatural(numerator, radix); n != nil {
		r := new(big.Rat).SetInt(n)
		if isFraction {
			d := parseNatural(denominator, radix)
			if d == nil || d.Sign() == 0 {
				return nil
			}
			r.SetFrac(n, d)
		}
		if sign == "-" {
			r.Neg(r)
		}
		return r
	}
	if isFraction || radix != 10 || strings.Trim(digits, "0123456789") == "" {
		return nil
	}
	decimal, ok := decimalSyntax(digits)
	if !ok {
		return nil
	}
	f, err := strconv.ParseFloat(sign+decimal, 64)
	if err != nil { // too big, which Guile refuses too
		return nil
	}
	return f
}

func parseNatural(digits string, radix int) *big.Int {
	if digits == "" || len(digits) > maxBits || strings.ContainsAny(digits, "+-_") {
		return nil
	}
	n, ok := new(big.Int).SetString(digits, radix)
	if !ok {
		return nil
	}
	return n
}

// decimalSyntax checks "12.5e3" with any of the exponents' letters, and returns it with
// an e.
func decimalSyntax(text string) (string, bool) {
	mantissa, exponent := text, ""
	if i := strings.IndexAny(text, "eEsSfFdDlL"); i >= 0 {
		mantissa, exponent = text[:i], text[i+1:]
		unsigned := strings.TrimLeft(exponent, "+-")
		if len(exponent)-len(unsigned) > 1 || unsigned == "" || strings.Trim(unsigned, "0123456789") != "" {
			return "", false
		}
		exponent = "e" + exponent
	}
	digits := strings.Replace(mantissa, ".", "", 1)
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return "", false
	}
	return mantissa + exponent, true
}

// parseDecimalExactly reads the digits after #e. A huge exponent has no exact value
// here.
func parseDecimalExactly(text string) Value {
	sign, digits := "", text
	if text[0] == '+' || text[0] == '-' {
		sign, digits = text[:1], text[1:]
	}
	decimal, ok := decimalSyntax(digits)
	if !ok {
		return nil
	}
	if _, exponent, ok := strings.Cut(decimal, "e"); ok {
		if n, err := strconv.Atoi(exponent); err != nil || n > 1000 || n < -1000 {
			return nil
		}
	}
	r, ok := new(big.Rat).SetString(sign + decimal)
	if !ok || len(decimal) > maxBits {
		return nil
	}
	return r
}

// complexNumber reports whether the text is a complex number, such as "1+2i" or "+i".
func complexNumber(text string, radix int) bool {
	if re, angle, ok := strings.Cut(text, "@"); ok {
		return parseReal(re, radix) != nil && parseReal(angle, radix) != nil
	}
	rest, ok := strings.CutSuffix(text, "i")
	if !ok || rest == "" {
		return false
	}
	at := strings.LastIndexAny(rest, "+-")
	if at > 0 && radix == 10 && (rest[at-1]|0x20) == 'e' {
		at = strings.LastIndexAny(rest[:at-1], "+-")
	}
	if at < 0 {
		return false
	}
	re, im := rest[:at], rest[at:]
	return (re == "" || parseReal(re, radix) != nil) && (len(im) == 1 || parseReal(im, radix) != nil)
}

// numberText writes a number as Guile's number->string does.
func numberText(v Value, radix int) string {
	switch x := v.(type) {
	case *big.Rat:
		if x.IsInt() {
			return x.Num().Text(radix)
		}
		return x.Num().Text(radix) + "/" + x.Denom().Text(radix)
	case float64:
		return floatText(x)
	}
	return ""
}

func floatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "+nan.0"
	case math.IsInf(f, 1):
		return "+inf.0"
	case math.IsInf(f, -1):
		return "-inf.0"
	case f != 0 && (math.Abs(f) >= 1e21 || math.Abs(f) < 1e-3):
		text := strconv.FormatFloat(f, 'e', -1, 64)
		mantissa, exponent, _ := strings.Cut(text, "e")
		sign := ""
		if exponent[0] == '-' {
			sign = "-"
		}
		if !strings.Contains(mantissa, ".") {
			mantissa += ".0"
		}
		return mantissa + "e" + sign + strings.TrimLeft(exponent, "+-0")
	}
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}

// Float returns a number as the nearest float64, or ok false for what is no number.
func Float(v Value) (f float64, ok bool) {
	switch x := v.(type) {
	case *big.Rat:
		f, _ = x.Float64()
		return f, true
	case float64:
		return x, true
	}
	return 0, false
}
