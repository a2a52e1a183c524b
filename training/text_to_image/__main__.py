from training.text_to_image import main

main()
