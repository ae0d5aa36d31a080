// After an upload, on a narrow screen: down to the results, once the picture above them has found its place.
() => {
  setTimeout(() => {
    const results = document.querySelector('#results');
    if (results.getBoundingClientRect().top > innerHeight / 2) results.scrollIntoView();
  }, 100);
}
