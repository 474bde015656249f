// The blocks of the encoder matrices: which are kept at a share of them, and a picture of that.

/**
 * Masks that keep of each matrix the largest blocks, at most `share` of those that it has, as
 * `qalib.pruning.magnitude.magnitude_mask` does. `matrices` are those of about.json: `order` numbers the kept blocks, the first
 * to go first.
 */
export function prune(matrices, share) {
  return matrices.map(({ name, shape, order }) => {
    const values = new Float32Array(shape[0] * shape[1]);
    const gone = order.length - Math.floor(order.length * share + 1e-6);
    for (const place of order.slice(gone)) values[place] = 1;
    return { name, shape, values };
  });
}

/** How many blocks and heads are left; a head is gone if its query, key or value blocks all are (the cards' rule). */
export function left(about, masks) {
  const blocks = masks.reduce((sum, mask) => sum + mask.values.reduce((a, b) => a + b, 0), 0);
  let heads = 0;
  for (let layer = 0; layer < about.layers; layer++) {
    const parts = masks.filter(({ name }) => new RegExp(`^mask\\.${layer}\\.(query|key|value)$`).test(name));
    for (let head = 0; head < about.heads; head++) heads += parts.every((mask) => hasRows(mask, head, about.heads));
  }
  return { blocks, heads };
}

function hasRows({ values, shape }, head, heads) {
  const [rows, columns] = [shape[0] / heads, shape[1]];
  return values.slice(Math.floor(head * rows) * columns, Math.ceil((head + 1) * rows) * columns).some((value) => value);
}

/**
 * Draw the matrices into canvases, a pixel a block: what the masks keep, what they have pruned, what was gone before.
 * Tall matrices are laid on their side.
 */
export function draw(canvases, matrices, masks, colours) {
  matrices.forEach(({ shape: [rows, columns], order }, number) => {
    const canvas = canvases[number];
    const tall = rows > columns;
    [canvas.width, canvas.height] = tall ? [rows, columns] : [columns, rows];
    const context = canvas.getContext("2d");
    context.fillStyle = colours.empty;
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (const place of order) {
      const [row, column] = [Math.floor(place / columns), place % columns];
      context.fillStyle = masks[number].values[place] ? colours.alive : colours.fallen;
      context.fillRect(tall ? row : column, tall ? column : row, 1, 1);
    }
  });
}
