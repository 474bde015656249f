// Windows, as qalib/qa/windows.py cuts them: [CLS] question [SEP] a stretch of the context [SEP], or what a model's
// tokenizer has in place of [CLS] and [SEP].

export const LONGEST = 384; // tokens of a window
const OVERLAP = 128; // tokens that two windows share

const SPACE = /[\s\u0085]/u;
const PUNCTUATION = /[\p{P}$+<=>^`|~]/u;
const IDEOGRAPH =
  /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/u;

// What the tokenizer drops, and of that what belongs to the character before it (as `extends` in windows.py).
const DROPPED = /[\p{Mn}\p{C}\uFFFD]/u;
const EXTENDS = /[\p{Mn}\u200C\u200D\u{E0020}-\u{E007F}]/u;

/**
 * The words of a text as BERT tells them apart, [start, end] in UTF-16 units; a sign or ideograph is one by itself. What
 * the tokenizer drops starts no word, and ends one only if it belongs to the character before it.
 */
export function words(text) {
  const found = [];
  let open = false; // does a letter go on with the last word?
  let marked = false; // does a mark go on with it?
  let at = 0;
  for (const character of text) {
    const after = at + character.length;
    if (SPACE.test(character)) open = marked = false;
    else if (DROPPED.test(character)) {
      marked &&= EXTENDS.test(character);
      if (marked) found.at(-1)[1] = after;
    } else {
      const alone = PUNCTUATION.test(character) || IDEOGRAPH.test(character);
      if (open && !alone) found.at(-1)[1] = after;
      else found.push([at, after]);
      open = !alone;
      marked = true;
    }
    at = after;
  }
  return found;
}

/** The tokens of a text: `ids`, and for each the number of its word among `spans`. */
export function tokens(tokenizer, text) {
  const spans = words(text);
  const ids = [];
  const word = [];
  spans.forEach(([start, end], number) => {
    for (const id of tokenizer.encode(text.slice(start, end), { add_special_tokens: false }).ids) {
      ids.push(id);
      word.push(number);
    }
  });
  return { ids, word, spans };
}

/**
 * The windows of a question over a context: `ids` and `types` of all tokens, `first` the place of the first context
 * token, `word` the number of the word of each context token. `frame` has the special tokens (`start`, `middle`, `end`)
 * and the `type` of the context, as in about.json. Throws an Error if the question leaves no room.
 */
export function windows(tokenizer, question, context, { start, middle, end, type }) {
  const asked = tokens(tokenizer, question).ids;
  const { ids, word, spans } = tokens(tokenizer, context);
  const head = [...start, ...asked, ...middle];
  const room = LONGEST - head.length - end.length;
  if (ids.length > room && room <= OVERLAP) throw new Error("The question is too long: it leaves no room for the text.");
  const result = [];
  for (let at = 0; ; at += room - OVERLAP) {
    const part = ids.slice(at, at + room);
    result.push({
      ids: [...head, ...part, ...end],
      types: [...head.map(() => 0), ...[...part, ...end].map(() => type)],
      first: head.length,
      word: word.slice(at, at + room),
    });
    if (at + room >= ids.length) return { windows: result, spans };
  }
}
