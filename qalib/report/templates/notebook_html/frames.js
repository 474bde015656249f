// Figures drawn ahead (qalib/teaching/sliders.py): pictures in the order of the sliders' values, the last one's fastest.
for (const figure of document.querySelectorAll(".frames")) {
  const sliders = [...figure.querySelectorAll("input")], pictures = [...figure.querySelectorAll("img")];
  const show = () => {
    let place = 0;
    for (const slider of sliders) {
      const label = JSON.parse(slider.dataset.labels)[slider.value];
      place = place * (Number(slider.max) + 1) + Number(slider.value);
      slider.setAttribute("aria-valuetext", label);
      slider.nextElementSibling.textContent = label;
    }
    pictures.forEach((picture, number) => { picture.hidden = number !== place; });
  };
  figure.addEventListener("input", show);
  show();
}
